"""Errors as answers between deployments: what a replica raises, Serve logs with all of its text."""

import logging
import traceback
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from serve.errors import InternalError, ServingError

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a replica returns in place of raising."""

    error: ServingError


async def told(work: Awaitable[T]) -> T | Refusal:
    """Return what comes of some work, or why nothing does."""
    try:
        return await work
    except Exception as error:
        return _refusal(error)


async def told_in_pieces(pieces: AsyncGenerator[T, None]) -> AsyncGenerator[T | Refusal, None]:
    """Yield pieces, and at their end why no more come; closing this closes them."""
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece
    except Exception as error:
        yield _refusal(error)


def broken(error: Exception) -> InternalError:
    """Log an error's kind and place, not its text, which may hold a patient's values."""
    place = "".join(traceback.format_tb(error.__traceback__))
    log.error("A question failed: %s.\n%s", type(error).__name__, place)
    return InternalError(
        f"The server failed on this question ({type(error).__name__}).",
        "It answers every valid question.",
        "Tell its operator; the server's log has the place.",
    )


def _refusal(error: Exception) -> Refusal:
    return Refusal(error if isinstance(error, ServingError) else broken(error))
