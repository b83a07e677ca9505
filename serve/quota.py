"""How many questions a key may ask in a time, counted once for all replicas of the HTTP app.

``limits`` does the counting, in the memory of one small process or in a store that its URL names
(``redis://…``, where several clusters share one limit).
"""

import logging
import math
import time
from typing import Protocol

from limits import RateLimitItem, parse_many
from limits.aio.strategies import MovingWindowRateLimiter
from limits.storage import storage_from_string
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.errors import FieldError, RateLimitedError, ServingError
from serve.http_errors import error_response
from serve.notes import notes
from serve.paths import is_question

log = logging.getLogger(__name__)
ANYBODY = "anybody"
"""Whom questions without a key are counted for."""


class Quota(Protocol):
    """Counts questions."""

    async def take(self, key: str, num: int = 1) -> float:
        """Count the questions of a key's request, all of them or none.

        Args:
            key: Whose they are.
            num: 1 before the request's body is read; how many it asks where they are several, of
                which one has been counted by then.

        Returns:
            Seconds until they may be asked if the key rests meanwhile, 0 for now, infinity where so
            many never may at once.
        """
        ...


def one_limit(text: str) -> RateLimitItem:
    """Return what ``60/minute`` or ``1000/hour`` says.

    Raises:
        ValueError: it is no limit, or several.
    """
    found = parse_many(text)
    if len(found) > 1:
        raise ValueError(f"{text!r} is {len(found)} limits; give one, such as 60/minute.")
    return found[0]


class MovingWindow:
    """At most so many questions of a key within any stretch of the window's length."""

    def __init__(self, limit: str, storage_url: str = "memory://") -> None:
        """Open the store.

        Args:
            limit: Such as ``60/minute`` or ``1000/hour``.
            storage_url: A store that ``limits`` knows.
        """
        self.limit = one_limit(limit)
        self.window = MovingWindowRateLimiter(storage_from_string(f"async+{storage_url}"))

    async def take(self, key: str, num: int = 1) -> float:
        """Count questions of a key; see ``Quota``."""
        if num > self.limit.amount:
            return math.inf
        if await self.window.hit(self.limit, key, cost=max(num - 1, 1)):
            return 0.0
        if num > 1:
            # Stores tell when one place is free again, not when so many are: then all are. A
            # question still counts at the very end of its window, so a second more.
            return self.limit.get_expiry() + 1.0
        stats = await self.window.get_window_stats(self.limit, key)
        return max(stats.reset_time - time.time(), 1.0)


class QuotaCheck:
    """ASGI middleware: refuses a key's requests beyond its quota before their bodies are read.

    Each request is counted as one question then, whatever becomes of it. How many patients a
    prediction asks about stands in its body: its route charges the others, all or none.
    """

    def __init__(self, app: ASGIApp, quota: Quota) -> None:
        self.app = app
        self.quota = quota

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if not is_question(scope):
            await self.app(scope, receive, send)
            return
        try:
            await charge(self.quota, scope, 1)
        except ServingError as error:
            await error_response(error)(scope, receive, send)
            return
        await self.app(scope, receive, send)


async def charge(quota: Quota, scope: Scope, num: int) -> None:
    """Count questions for the key of a request, as ``Quota.take`` does.

    Where the counter does not answer they are free: a limit on load is no reason to refuse
    everybody.

    Raises:
        RateLimitedError: the key has asked as often as it may for now.
        FieldError: it may never ask so many at once.
    """
    try:
        wait_s = await quota.take(notes(scope).key or ANYBODY, num)
    except Exception as error:
        log.warning("The rate limit's counter does not answer: %s.", type(error).__name__)
        return
    if math.isinf(wait_s):
        raise FieldError(
            f"The request asks {num} questions at once.",
            "A key's rate limit counts each patient of a request, and is smaller than that.",
            "Send fewer patients in one request.",
            "inputs",
        )
    if wait_s > 0:
        raise RateLimitedError(
            "This key's rate limit is used up.",
            "Its operator allows a number of questions in a time; each patient counts as one.",
            "Ask again after the time in Retry-After.",
            retry_after_s=math.ceil(wait_s),
        )
