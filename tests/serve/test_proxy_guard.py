"""What the proxy says where nobody else did."""

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from fedkim_ray import telemetry
from fedkim_ray.metric_names import Metric
from serve.proxy_guard import PROXY_CALLBACK, ProxyGuard, middlewares


async def lost(scope: Scope, receive: Receive, send: Send) -> None:
    """End without a word, as Serve's proxy does when a replica dies."""


def ask(app: Any) -> Any:
    return TestClient(ProxyGuard(app)).get("/")


def test_a_request_without_an_answer_gets_one_that_says_when_to_ask_again() -> None:
    answer = ask(lost)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["code"] == "not_ready"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Counters that are raised, each with its labels."""
    counted: list[tuple[str, ...]] = []

    def inc(metric: Metric, **labels: object) -> None:
        counted.append((metric.name, *map(str, labels.values())))

    monkeypatch.setattr(telemetry, "inc", inc)
    return counted


LOST_QUESTION = ("fedkim_requests_total", "none", "503", "none")
REJECTION = ("fedkim_rejections_total", "not_ready")


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/chat/completions", [LOST_QUESTION, REJECTION]),
        ("POST", "/fedkim/v1/tasks/covid19/predict", [LOST_QUESTION, REJECTION]),
        ("GET", "/v1/models", [REJECTION]),
    ],
)
def test_a_lost_question_is_counted_as_one(
    counted: list[tuple[str, ...]], method: str, path: str, expected: list[tuple[str, ...]]
) -> None:
    assert TestClient(ProxyGuard(lost)).request(method, path).status_code == 503
    assert counted == expected


def test_what_an_app_answers_is_counted_by_the_app(counted: list[tuple[str, ...]]) -> None:
    TestClient(ProxyGuard(PlainTextResponse("full", 503))).post("/v1/chat/completions")
    assert counted == []


def test_who_hangs_up_is_neither_answered_nor_counted(counted: list[tuple[str, ...]]) -> None:
    sent: list[Message] = []

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.disconnect"  # Serve's proxy stops there

    async def hang_up() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    asyncio.run(ProxyGuard(proxy)(scope, hang_up, send))
    assert (sent, counted) == ([], [])


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
