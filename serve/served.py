"""What the engine serves, asked again every few seconds: a new bundle may roll in at any time."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import TypeVar

from serve.engine import Description, Engine
from serve.errors import NotReadyError, UnknownNameError

T = TypeVar("T")
FRESH_S = 5.0
"""Seconds after which the engine is asked again."""
PATIENCE_S = 1.0
"""Seconds that a request waits for a newer description; then the older one serves it."""
GIVE_UP_S = 30.0
"""Seconds after which a question that no engine answers is asked anew."""


class Served:
    """The engine's description of what it serves.

    While replicas of two bundles answer, either one may have described itself.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._known: Description | None = None
        self._asked_at = -math.inf
        self._asking: asyncio.Task[Description] | None = None

    async def described(self) -> Description:
        """Return the last description; who finds it old asks for another, and nobody else waits.

        Raises:
            ServingError: the engine has never described itself, and cannot now.
        """
        if self._known is None or time.monotonic() - self._asked_at >= FRESH_S:
            return await self._anew()
        return self._known

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
        if self._asking is None:
            self._asked_at = time.monotonic()
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(self._take)
        asking = self._asking
        await asyncio.wait({asking}, timeout=PATIENCE_S if self._known else None)
        return self._known or asking.result()

    async def _ask(self) -> Description:
        try:
            async with asyncio.timeout(GIVE_UP_S):
                return await self.engine.describe()
        except TimeoutError:
            raise NotReadyError(
                "The engine does not say what it serves.",
                f"It does within {GIVE_UP_S:g} s.",
                "Wait; see the server's log if this lasts.",
            ) from None

    def _take(self, asked: asyncio.Task[Description]) -> None:
        self._asking = None
        if not asked.cancelled() and asked.exception() is None:
            self._known = asked.result()
