"""What the engine serves, asked again every few seconds: a new bundle may roll in at any time."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import TypeVar

from serve.engine import Description, Engine
from serve.errors import ServingError, UnknownNameError

T = TypeVar("T")
FRESH_S = 5.0
"""Seconds after which the engine is asked again."""
PATIENCE_S = 1.0
"""Seconds that are waited for a newer description; then the older one serves."""


class Served:
    """The engine's description of what it serves.

    While replicas of two bundles answer, either one may have described itself.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._known: Description | None = None
        self._asked_at = -math.inf

    async def described(self) -> Description:
        """Return the last description; who finds it old asks for another, and nobody else waits.

        Raises:
            ServingError: the engine has never described itself, and cannot now.
        """
        if self._known is None or time.monotonic() - self._asked_at >= FRESH_S:
            return await self._ask()
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
            return look(await self._ask())

    async def _ask(self) -> Description:
        self._asked_at = time.monotonic()
        try:
            async with asyncio.timeout(None if self._known is None else PATIENCE_S):
                self._known = await self.engine.describe()
        except (ServingError, TimeoutError):
            if self._known is None:
                raise
        return self._known
