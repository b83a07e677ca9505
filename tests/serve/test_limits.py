"""Bodies as they come: bytes, seconds, and all that one process holds of them."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from pydantic import ValidationError
from starlette.types import Message, Receive, Scope, Send

from serve.limits import BodyLimit, Limits

PREDICT = "/v1/tasks/covid19/predict"
TEN = b"x" * 10


def asked(path: str = PREDICT, method: str = "POST") -> Scope:
    return {"type": "http", "method": method, "path": path, "headers": []}


def sending(*pieces: bytes, then_waits: bool = False) -> Receive:
    """Return a client that sends these pieces, and may leave it at that."""
    left = list(pieces)

    async def receive() -> Message:
        if not left:
            await asyncio.sleep(60)
        piece = left.pop(0)
        return {"type": "http.request", "body": piece, "more_body": then_waits or bool(left)}

    return receive


class Answers:
    """What a client is told."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.headers: dict[bytes, bytes] = {}

    async def send(self, message: Message) -> None:
        """Take one message."""
        if message["type"] == "http.response.start":
            self.statuses.append(message["status"])
            self.headers = dict(message["headers"])


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def ask(guard: BodyLimit, receive: Receive, scope: Scope | None = None) -> Answers:
    answers = Answers()
    asyncio.run(guard(scope or asked(), receive, answers.send))
    return answers


def test_a_body_that_trickles_is_given_up() -> None:
    guard = BodyLimit(answer, Limits(upload_s=0.05))
    answers = ask(guard, sending(TEN, then_waits=True))
    assert answers.statuses == [408]
    assert answers.headers[b"connection"] == b"close"
    assert guard.held_bytes == 0


@pytest.mark.parametrize("scope", [asked("/v1/models", "GET"), asked("/healthz")])
def test_no_other_body_is_waited_for(scope: Scope) -> None:
    guard = BodyLimit(answer, Limits(upload_s=60))
    assert ask(guard, sending(TEN, then_waits=True), scope).statuses == [200]


TWENTY = Limits(body_bytes=20, held_bytes=20)


def during(inner: Callable[[], Awaitable[None]], limits: Limits = TWENTY) -> BodyLimit:
    """Return a guard, by default of two bodies of ten bytes, inside of which something happens."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await inner()
        await answer(scope, receive, send)

    return BodyLimit(app, limits)


def test_bodies_that_are_answered_leave_less_room_for_others() -> None:
    second, third = Answers(), Answers()
    depth = 0

    async def meanwhile() -> None:
        nonlocal depth
        depth += 1
        if depth == 1:
            await guard(asked(), sending(TEN), second.send)  # 20 bytes: just enough
        elif depth == 2:
            await guard(asked(), sending(b"x"), third.send)  # 21

    guard = during(meanwhile)
    assert ask(guard, sending(TEN)).statuses == [200]
    assert (second.statuses, third.statuses) == ([200], [503])
    assert third.headers[b"retry-after"] == b"2"
    assert guard.held_bytes == 0


def test_values_take_room_until_their_request_is_answered() -> None:
    second, depth = Answers(), 0

    async def meanwhile() -> None:
        nonlocal depth
        depth += 1
        if depth == 1:
            await guard(asked(), sending(b"[1,2]"), second.send)

    # Five bytes and a comma take 5 + 80; two such bodies more than 150, as do seven and two commas.
    guard = during(meanwhile, Limits(body_bytes=20, held_bytes=150))
    assert ask(guard, sending(b"[1,2]")).statuses == [200]
    assert (second.statuses, second.headers[b"retry-after"]) == ([503], b"2")
    assert ask(guard, sending(b"[1,2]")).statuses == [200]
    assert ask(guard, sending(b"[1,2,3]")).statuses == [413]
    assert guard.held_bytes == 0


def test_a_failure_and_a_refusal_give_their_room_back() -> None:
    async def fail() -> None:
        raise ValueError("inside")

    guard = during(fail)
    with pytest.raises(ValueError, match="inside"):
        ask(guard, sending(TEN))
    assert ask(guard, sending(TEN, b"x" * 11)).statuses == [413]
    assert guard.held_bytes == 0


def test_all_bodies_have_room_for_one() -> None:
    with pytest.raises(ValidationError, match="held_bytes is 1, less than body_bytes, 2"):
        Limits(body_bytes=2, held_bytes=1)
