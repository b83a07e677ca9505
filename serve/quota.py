"""How many questions a key may ask in a time, counted once for all replicas of the HTTP app.

``limits`` does the counting, in the memory of one small process or in a store that its URL names
(``redis://…``, where several clusters share one limit).
"""

import logging
import math
import time
from typing import Protocol

from limits import parse
from limits.aio.strategies import MovingWindowRateLimiter
from limits.storage import storage_from_string
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.auth import KEY_NAME
from serve.door import COUNTED
from serve.errors import RateLimitedError
from serve.http_errors import error_response

log = logging.getLogger(__name__)
ANYBODY = "anybody"
"""Whom questions without a key are counted for."""


class Quota(Protocol):
    """Counts questions."""

    async def take(self, key: str) -> float:
        """Count one question of a key; return the seconds until it may be asked, 0 for now."""
        ...


class MovingWindow:
    """At most so many questions of a key within any stretch of the window's length."""

    def __init__(self, limit: str, storage_url: str = "memory://") -> None:
        """Open the store.

        Args:
            limit: Such as ``60/minute`` or ``1000/hour``.
            storage_url: A store that ``limits`` knows.
        """
        self.limit = parse(limit)
        self.window = MovingWindowRateLimiter(storage_from_string(f"async+{storage_url}"))

    async def take(self, key: str) -> float:
        """Count one question of a key; see ``Quota``."""
        if await self.window.hit(self.limit, key):
            return 0.0
        stats = await self.window.get_window_stats(self.limit, key)
        return max(stats.reset_time - time.time(), 1.0)


class QuotaCheck:
    """ASGI middleware: refuses a key's questions beyond its quota before their bodies are read."""

    def __init__(self, app: ASGIApp, quota: Quota) -> None:
        self.app = app
        self.quota = quota

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        wait_s = await self._wait(scope)
        if wait_s > 0:
            error = RateLimitedError(
                "This key's rate limit is used up.",
                "Its operator allows a number of questions in a time.",
                "Ask again after the time in Retry-After.",
                retry_after_s=math.ceil(wait_s),
            )
            await error_response(error)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _wait(self, scope: Scope) -> float:
        """Return the seconds to wait.

        Where the counter does not answer, 0: a limit on load is no reason to refuse everybody.
        """
        counted = scope["type"] == "http" and scope["method"] == "POST"
        if not counted or not scope["path"].startswith(COUNTED):
            return 0.0
        try:
            return await self.quota.take(scope.get(KEY_NAME, ANYBODY))
        except Exception as error:
            log.warning("The rate limit's counter does not answer: %s.", type(error).__name__)
            return 0.0
