"""What the engine serves, asked again every few seconds: a new bundle may roll in at any time."""

import asyncio
import math
import time
from collections.abc import Callable
from contextvars import Context
from typing import TypeVar

from serve.engine import Description, Engine
from serve.errors import NotReadyError, UnknownNameError

T = TypeVar("T")
FRESH_S = 5.0
"""Seconds after which the engine is asked again."""
PATIENCE_S = 1.0
"""Seconds that a request for an unknown name waits for a newer description."""
GIVE_UP_S = 30.0
"""Seconds after which a question that no engine answers is asked anew."""


class Served:
    """The engine's description of what it serves.

    While replicas of two bundles answer, either one may have described itself.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._known: Description | None = None
        self._asked_at = self._told_at = -math.inf
        self._asking: asyncio.Task[Description] | None = None

    async def described(self) -> Description:
        """Return the last description at once, and ask for another where it is old.

        Only the first one is waited for.

        Raises:
            ServingError: the engine has never described itself, and cannot now.
        """
        if self._known is None:
            return await self._anew()
        if time.monotonic() - self._asked_at >= FRESH_S:
            self._ask()
        return self._known

    async def lately(self, within_s: float) -> Description:
        """Return a description that came within the last seconds, or wait for the next one.

        Raises:
            ServingError: the engine cannot describe itself.
        """
        known = await self.described()
        if time.monotonic() - self._told_at < within_s:
            return known
        return await asyncio.shield(self._ask())

    async def find(self, look: Callable[[Description], T]) -> T:
        """Return what ``look`` finds; the engine is asked anew before it is said to be absent.

        Raises:
            UnknownNameError: it is absent.
            ServingError: see ``described``.
        """
        try:
            return look(await self.described())
        except UnknownNameError:
            return look(await self._anew())

    async def _anew(self) -> Description:
        """Return a new description, or the last one where the engine cannot give it in time.

        All who want one share a question, which goes on when they no longer wait: under load it
        would else lose its place in the queue each time.
        """
        asking = self._ask()
        await asyncio.wait({asking}, timeout=PATIENCE_S if self._known else None)
        return self._known or asking.result()

    def _ask(self) -> "asyncio.Task[Description]":
        """Return the question that is under way, or begin it."""
        if self._asking is None:
            self._asked_at = time.monotonic()
            # In a context of its own: in that of a request, Serve would end it with the request.
            self._asking = asyncio.create_task(self._answer(), context=Context())
            self._asking.add_done_callback(self._take)
        return self._asking

    async def _answer(self) -> Description:
        try:
            async with asyncio.timeout(GIVE_UP_S):
                return await self.engine.describe()
        except TimeoutError:
            raise NotReadyError(
                "The engine does not say what it serves.",
                f"It does within {GIVE_UP_S:g} s.",
                "Wait; see the server's log if this lasts.",
            ) from None

    def _take(self, asked: "asyncio.Task[Description]") -> None:
        self._asking = None
        if not asked.cancelled() and asked.exception() is None:
            self._known, self._told_at = asked.result(), time.monotonic()
