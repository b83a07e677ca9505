"""What the proxy says where nobody else did."""

from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from serve.proxy_guard import PROXY_CALLBACK, ProxyGuard, middlewares


async def lost(scope: Scope, receive: Receive, send: Send) -> None:
    """End without a word, as Serve's proxy does when a replica dies."""


def ask(app: Any) -> Any:
    return TestClient(ProxyGuard(app)).get("/")


def test_a_request_without_an_answer_gets_one_that_says_when_to_ask_again() -> None:
    answer = ask(lost)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["code"] == "not_ready"


@pytest.mark.parametrize(
    ("status", "headers", "after"),
    [(503, {}, "5"), (503, {"Retry-After": "2"}, "2"), (200, {}, None)],
)
def test_every_503_says_when_to_ask_again(
    status: int, headers: dict[str, str], after: str | None
) -> None:
    answer = ask(PlainTextResponse("words", status, headers))
    assert (answer.status_code, answer.text) == (status, "words")
    assert answer.headers.get("retry-after") == after


def test_serve_finds_it_by_the_name_in_the_environment() -> None:
    module, _, function = PROXY_CALLBACK[1].rpartition(".")
    assert (module, function) == (middlewares.__module__, middlewares.__name__)
    assert [m.cls for m in middlewares()] == [ProxyGuard]
