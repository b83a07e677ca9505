"""One end for all that a question takes: to understand it, to answer it, to stream the answer."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient

from fedkim_ray.types import Task
from serve.api import create_app
from serve.deadline import until
from serve.engine import Description
from serve.errors import DeadlineError
from serve.gateway import Gateway
from serve.inputs import RawInput
from serve.limits import Limits
from serve.preparing import Prepared
from serve.transformers_engine import TransformersEngine

QUESTIONS = {
    "/v1/tasks/mortality/predict": {"inputs": [{"series": {"lab": {"lab_0": 1.5}}}]},
    "/v1/chat/completions": {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Is it there?"}],
    },
}
TOO_LONG_S = 30.0


class SlowPreparer:
    """Decodes for longer than anybody waits."""

    async def prepare(
        self, raws: Sequence[RawInput], task: Task, encoded: bool = True
    ) -> list[Prepared]:
        """Take too long; see ``Preparer``."""
        await asyncio.sleep(TOO_LONG_S)
        return []


class SlowEngine:
    """Does not say what it serves."""

    async def describe(self) -> Description:
        """Take too long; see ``Engine``."""
        await asyncio.sleep(TOO_LONG_S)
        raise AssertionError("nobody waits so long")


@pytest.mark.parametrize("path", QUESTIONS)
@pytest.mark.parametrize("slow", ["describing", "decoding"])
def test_what_comes_before_the_answer_takes_of_its_time(
    engine: TransformersEngine, path: str, slow: str
) -> None:
    limits = Limits(request_s=0.05)
    gateway = (
        Gateway(SlowEngine(), limits)  # type: ignore[arg-type]
        if slow == "describing"
        else Gateway(engine, limits, SlowPreparer())
    )
    with TestClient(create_app(gateway)) as web:
        answer = web.post(path, json=QUESTIONS[path])
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")


class Words:
    """Two words at once, and no third; knows whether it was closed."""

    closed = False

    async def come(self) -> AsyncGenerator[str, None]:
        """Yield them."""
        try:
            yield "one"
            yield "two"
            await asyncio.sleep(TOO_LONG_S)
        finally:
            self.closed = True


def test_words_that_come_in_time_are_kept_and_the_rest_is_given_up() -> None:
    words, came = Words(), []

    async def listen() -> None:
        async for word in until(time.monotonic() + 0.05, words.come()):
            came.append(word)

    with pytest.raises(DeadlineError):
        asyncio.run(listen())
    assert (came, words.closed) == (["one", "two"], True)


def test_words_are_closed_where_nobody_listens_any_longer() -> None:
    words = Words()

    async def leave() -> Any:
        heard = until(time.monotonic() + TOO_LONG_S, words.come())
        first = await anext(heard)
        await heard.aclose()
        return first

    assert asyncio.run(leave()) == "one"
    assert words.closed
