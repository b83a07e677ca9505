"""How much one request may ask for, and the guard that counts a body's bytes as they come."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedkim_ray.types import Frozen
from serve.errors import OverloadedError, ServingError, TooLargeError, UploadTimeoutError
from serve.field_types import MAX_HOURS, MAX_LISTED, MAX_SAMPLES
from serve.http_errors import error_response
from serve.paths import is_question

MAX_NESTED = 1 << 20
"""Lists and objects in one JSON body: an empty one has 2 bytes there, and 64 once it is read."""
VALUE_BYTES = 80
"""Bytes of a value once it is read, for each of which a body has a comma.

Measured on lists of whole numbers, the costliest of lists: each number is an int, a float that
stands for it, and a place in the list of either. A decimal one takes 48.
"""


class Limits(Frozen):
    """Bounds of one request; a larger one is refused before it costs memory or time."""

    body_bytes: PositiveInt = 32 << 20
    """Bytes of a request's body."""
    held_bytes: PositiveInt = 512 << 20
    """Bytes of all bodies that one replica of the HTTP app reads or answers, and of the values in
    them once they are read; beyond them status 503."""
    upload_s: PositiveFloat = 30.0
    """Seconds until a request's body is there."""
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

    @model_validator(mode="after")
    def _holds_one(self) -> Self:
        if self.held_bytes < self.body_bytes:
            raise ValueError(
                f"held_bytes is {self.held_bytes}, less than body_bytes, {self.body_bytes}."
            )
        return self


def is_form(scope: Scope) -> bool:
    """Whether a request's body is a form, which may hold files."""
    return Headers(scope=scope).get("content-type", "").startswith("multipart/form-data")


def read_again(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read, and then whatever else comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


class BodyLimit:
    """ASGI middleware: reads a question's body before anything else sees the request.

    It comes within its bytes and seconds, and all bodies that are held at once stay within theirs.
    No other request has a body that anybody reads.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app = app
        self.limits = limits
        self.held_bytes = 0
        """Of all bodies that are being read or answered, and of the values in them."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body, or refuse it."""
        if not is_question(scope):
            await self.app(scope, receive, send)
            return
        try:
            async with self._within_time():
                body, held_bytes = await self._read(scope, receive)
        except ServingError as error:
            await error_response(error)(scope, receive, send)
            return
        try:
            await self.app(scope, read_again(body, receive), send)
        finally:
            self.held_bytes -= held_bytes

    async def _read(self, scope: Scope, receive: Receive) -> tuple[bytes, int]:
        """Return the whole body, and how many bytes are held for it from then on.

        Raises:
            TooLargeError: it is announced, or turns out, to be too large, or to have too many
                values.
            OverloadedError: with the others that are held it would be too much.
        """
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit():
            self._require_small(int(announced))
        body = bytearray()
        try:
            more = True
            while more:
                message = await receive()
                more = message["type"] == "http.request" and message.get("more_body", False)
                self._add(body, message.get("body", b""))
            if not is_form(scope):
                _require_flat(body)
            values_bytes = self._values_bytes(body)
            self._hold(values_bytes)
        except BaseException:
            self.held_bytes -= len(body)
            raise
        return bytes(body), len(body) + values_bytes

    def _add(self, body: bytearray, piece: bytes) -> None:
        self._require_small(len(body) + len(piece))
        # Counted as they come: who announces much and sends nothing takes no room from others.
        self._hold(len(piece))
        body += piece

    def _hold(self, num_bytes: int) -> None:
        if self.held_bytes + num_bytes > self.limits.held_bytes:
            raise OverloadedError(
                "The requests under way fill the memory for their bodies.",
                f"Together they have at most {self.limits.held_bytes} bytes.",
                "Ask again after the time in Retry-After.",
            )
        self.held_bytes += num_bytes

    def _values_bytes(self, body: bytearray) -> int:
        """Return what a body's values will take, by its commas."""
        num_bytes = body.count(b",") * VALUE_BYTES
        if len(body) + num_bytes > self.limits.held_bytes:  # and would be at any time
            raise TooLargeError(
                f"The request's body has {body.count(b',')} commas.",
                f"With {VALUE_BYTES} bytes for each it is to stay within {self.limits.held_bytes}.",
                "Send fewer inputs, or recordings as files.",
            )
        return num_bytes

    def _require_small(self, num_bytes: int) -> None:
        if num_bytes > self.limits.body_bytes:
            raise TooLargeError(
                "The request's body is too large.",
                f"At most {self.limits.body_bytes} bytes are read.",
                "Send fewer inputs or smaller images.",
            )

    @asynccontextmanager
    async def _within_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.limits.upload_s):
                yield
        except TimeoutError:
            raise UploadTimeoutError(
                "The request's body did not come in time.",
                f"It is whole within {self.limits.upload_s:g} s.",
                "Send it faster, or send less.",
            ) from None


def _require_flat(body: bytearray) -> None:
    if body.count(b"[") + body.count(b"{") > MAX_NESTED:
        raise TooLargeError(
            "The request's body has too many lists and objects.",
            f"At most {MAX_NESTED} are read.",
            "Send fewer inputs.",
        )
