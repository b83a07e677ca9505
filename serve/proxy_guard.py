"""What Serve's HTTP proxy says where no replica of the HTTP app lived to say it.

A replica that dies takes its unfinished requests with it, and the proxy ends them with a bare 500.
This middleware stands in the proxy and makes them a 503 in the service's own form, with the time
after which to ask again. The proxy finds it by an environment variable of Ray's nodes, so that it
must be set before they start; without it all else works.
"""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedkim_ray import telemetry
from fedkim_ray.metric_names import REQUESTS
from serve.errors import NotReadyError
from serve.http_errors import error_response
from serve.paths import QUESTIONS

PROXY_CALLBACK = ("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "serve.proxy_guard.middlewares")
"""Environment variable of Ray's nodes, and what it names."""
RETRY_AFTER = b"retry-after"


class ProxyGuard:
    """ASGI middleware: no request ends without an answer, and no 503 without Retry-After.

    Who has hung up is lost to nobody, and gets no answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and watch whether it is answered."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = gone = False

        async def heard() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(_with_retry_after(message))

        await self.app(scope, heard, watched)
        if not (begun or gone):
            _count(scope)
            await error_response(_lost())(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Return what Serve's proxy puts around its own app."""
    return [Middleware(ProxyGuard)]


def _with_retry_after(message: Message) -> Message:
    """Return a message as it is, or a 503's start with the header that it lacks."""
    if message["type"] != "http.response.start" or message["status"] != NotReadyError.status:
        return message
    headers = [*message.get("headers", ())]
    if RETRY_AFTER not in {name.lower() for name, _ in headers}:
        headers.append((RETRY_AFTER, str(NotReadyError.retry_after_s).encode()))
    return {**message, "headers": headers}


def _count(scope: Scope) -> None:
    """Count a question that was lost: the replica that counts all others had no time to.

    The proxy's paths begin with whatever prefix the app has there.
    """
    if scope["method"] == "POST" and any(place in scope["path"] for place in QUESTIONS):
        status = NotReadyError.status
        telemetry.inc(REQUESTS, task="none", status=status, bundle_version="none")


def _lost() -> NotReadyError:
    return NotReadyError(
        "The process that had this request was lost.",
        "Serve replaces it by itself.",
        "Ask again after the time in Retry-After.",
    )
