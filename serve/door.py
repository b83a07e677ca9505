"""The outermost layer of the HTTP app: counts, times and seals every request."""

import logging
import time
import traceback

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedkim_ray import telemetry
from fedkim_ray.metric_names import REQUEST_SECONDS, REQUESTS
from serve.notes import notes
from serve.paths import is_question, route_path

log = logging.getLogger(__name__)
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
NOT_STORED = {"Cache-Control": "no-store"}
"""Of answers about patients."""


class Door:
    """ASGI middleware: metrics, security headers, and an answer where code fails."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and watch its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, counts = 0, is_question(scope)
        kept = NOT_STORED if route_path(scope).startswith("/v1/") else {}
        started = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(SECURITY_HEADERS | kept)
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            _log(scope, error)
            if status:  # too late for another answer: the server closes the connection
                status = 500
                raise RuntimeError("The answer broke off.") from None
            await _failed()(scope, receive, watched)
        finally:
            if counts:
                _count(scope, status, time.perf_counter() - started)


def _count(scope: Scope, status: int, seconds: float) -> None:
    told = notes(scope)
    task, version = told.task or "none", told.bundle_version or "none"
    telemetry.inc(REQUESTS, task=task, status=told.status(status), bundle_version=version)
    telemetry.observe(REQUEST_SECONDS, seconds, task=task)


def _log(scope: Scope, error: Exception) -> None:
    """Log where code failed; an error's own text may hold a patient's values."""
    place = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s %s: %s\n%s", scope["method"], scope["path"], type(error).__name__, place)


def _failed() -> JSONResponse:
    error = {"message": "The server failed on this request.", "type": "server_error"}
    return JSONResponse({"error": {**error, "param": None, "code": "internal_error"}}, 500)
