"""Bodies are read as the standard library reads them, and refused as FastAPI refuses them."""

import json
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from serve.field_types import Finite, Text
from serve.http_errors import handle_errors
from serve.quick_json import QuickJsonRoute


class Sent(BaseModel):
    """What is asked."""

    text: Text = ""
    values: list[Finite | None] = []


@pytest.fixture
def web() -> TestClient:
    """An app that answers with what it has read."""
    router = APIRouter(route_class=QuickJsonRoute)

    @router.post("/")
    async def echo(body: Sent) -> dict[str, Any]:
        return {"text": body.text, "values": body.values}

    app = FastAPI()
    handle_errors(app)
    app.include_router(router)
    return TestClient(app)


def post(web: TestClient, body: bytes) -> Any:
    return web.post("/", content=body, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "\\u00e4 \\ud83d\\ude00", "values": [1, -0.5, 1e-3, 2.5E+2, null]}',
        b'{"values": [1], "values": [0.1, 123456789.123456789]}',
        b' {"text" : "\xc3\xa4"}\n',
    ],
)
def test_values_are_those_of_the_standard_library(web: TestClient, body: bytes) -> None:
    assert post(web, body).json() == {"text": "", "values": []} | json.loads(body)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"text": "\\ud800"}', "text: Value error, half of a surrogate pair"),
        (b'{"values": [NaN]}', "values[0]: Input should be a finite number"),
        (b'{"values": [1, 2', "JSON decode error"),
        (b"\xff", "JSON decode error"),
        (b"[" * 100_000, "JSON decode error"),
        (b"9" * 5000, "JSON decode error"),
    ],
)
def test_what_cannot_be_read_is_refused(web: TestClient, body: bytes, named: str) -> None:
    answer = post(web, body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert named in error["message"]
    assert error["code"] == "invalid_value"
