"""The first failure ends all."""

import asyncio

import pytest

from serve.errors import OverloadedError
from serve.together import together


def test_results_come_in_order() -> None:
    async def after(seconds: float, result: str) -> str:
        await asyncio.sleep(seconds)
        return result

    assert asyncio.run(together(after(s, r) for s, r in ((0.02, "a"), (0.0, "b")))) == ["a", "b"]


def test_the_first_failure_is_told_as_it_is_and_nothing_goes_on() -> None:
    ended = []

    async def endless(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(name)

    async def refused() -> None:
        await asyncio.sleep(0)  # the others have begun
        raise OverloadedError("Full.", "Room.", "Wait.")

    with pytest.raises(OverloadedError, match="Full"):
        asyncio.run(together([endless("a"), refused(), endless("b")]))
    assert sorted(ended) == ["a", "b"]
