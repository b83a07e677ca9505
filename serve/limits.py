"""How much one request may ask for, and the guard that counts a body's bytes as they come."""

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedkim_ray.types import Frozen
from serve.errors import TooLargeError
from serve.field_types import MAX_HOURS, MAX_LISTED, MAX_SAMPLES
from serve.http_errors import error_response

MAX_NESTED = 1 << 20
"""Lists and objects in one JSON body: an empty one has 2 bytes there, and 64 once it is read."""


class Limits(Frozen):
    """Bounds of one request; a larger one is refused before it costs memory or time."""

    body_bytes: PositiveInt = 32 << 20
    """Bytes of a request's body."""
    image_bytes: PositiveInt = 16 << 20
    """Bytes of one encoded image."""
    image_hosts: tuple[str, ...] = ()
    """Hosts (``host`` or ``host:port``) that images may be fetched from; none where empty."""
    image_fetch_s: PositiveFloat = 5.0
    """Seconds until an image from elsewhere is there."""
    image_pixels: PositiveInt = 25_000_000
    """Width times height of an image, read from its header before it is decoded."""
    signal_samples: PositiveInt = Field(200_000, le=MAX_SAMPLES)
    """Samples of one lead, as it comes and at the model's rate."""
    series_hours: PositiveInt = Field(1000, le=MAX_HOURS)
    """Values of one feature; the bundle's own number of hours is usually smaller."""
    text_chars: PositiveInt = 8000
    """Characters of all text of one question."""
    inputs: PositiveInt = Field(64, le=MAX_LISTED)
    """Patients in one ``predict`` request."""
    messages: PositiveInt = Field(64, le=MAX_LISTED)
    """Messages of one chat."""
    new_tokens: PositiveInt = 512
    """Tokens generated at most."""
    request_s: PositiveFloat = 120.0
    """Seconds from the arrival of a whole question to the last byte of its answer."""
    waiting: NonNegativeInt = 256
    """Requests that wait for one replica of the model; further ones get status 503."""


def is_form(scope: Scope) -> bool:
    """Whether a request's body is a form, which may hold files."""
    return Headers(scope=scope).get("content-type", "").startswith("multipart/form-data")


class BodyLimit:
    """ASGI middleware: reads the body up to its limit before anything else sees the request."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = await self._read(scope, receive)
        if body is None:
            await error_response(self._too_large())(scope, receive, send)
            return
        if not is_form(scope) and body.count(b"[") + body.count(b"{") > MAX_NESTED:
            await error_response(self._too_nested())(scope, receive, send)
            return
        replayed: Message = {"type": "http.request", "body": body, "more_body": False}
        waiting = [replayed]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        await self.app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the whole body; None where it is announced, or turns out, to be too large."""
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit() and int(announced) > self.max_bytes:
            return None
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self.max_bytes:
                return None
            if message["type"] != "http.request" or not message.get("more_body", False):
                return bytes(body)

    def _too_nested(self) -> TooLargeError:
        return TooLargeError(
            "The request's body has too many lists and objects.",
            f"At most {MAX_NESTED} are read.",
            "Send fewer inputs.",
        )

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            "The request's body is too large.",
            f"At most {self.max_bytes} bytes are read.",
            "Send fewer inputs or smaller images.",
        )
