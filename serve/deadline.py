"""The time that one request may take: one end for all of its parts."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

from serve.errors import DeadlineError

T = TypeVar("T")


@contextlib.asynccontextmanager
async def deadline(ends_at: float) -> AsyncIterator[None]:
    """End a block at a time of ``time.monotonic()``.

    Raises:
        DeadlineError: it was not done by then.
    """
    try:
        async with asyncio.timeout(ends_at - time.monotonic()) as clock:
            yield
    except TimeoutError:
        if not clock.expired():  # another's, from inside
            raise
        raise DeadlineError(
            "The answer took too long.", "It comes within the service's limit.", "Ask for less."
        ) from None


async def until(ends_at: float, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Yield items as they come, and close their generator at the end, whichever comes first.

    Raises:
        DeadlineError: the next one was not there at ``ends_at``.
    """
    async with contextlib.aclosing(items):
        while True:
            async with deadline(ends_at):
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
            yield item
