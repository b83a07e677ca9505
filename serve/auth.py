"""Optional API keys: a file of names and SHA-256 hashes, never the keys themselves.

Each line is ``NAME SHA256``; ``hash_key`` gives the second word. Without a file nobody is asked
for a key, and ``run_server`` then binds to loopback alone.
"""

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from fedkim_ray.errors import EnvironmentProblemError
from serve.errors import UnauthorizedError
from serve.http_errors import error_response

GUARDED = ("/v1/", "/metrics")
"""Paths that need a key; the page, the documentation and the health checks do not."""


def hash_key(key: str) -> str:
    """Return the hash of a key as it stands in the file."""
    return hashlib.sha256(key.encode()).hexdigest()


class ApiKeys:
    """The keys that may ask."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self.hashes = dict(hashes)

    @classmethod
    def from_file(cls, path: str) -> "ApiKeys":
        """Read a key file.

        Raises:
            EnvironmentProblemError: it is absent, empty, or a line is not ``NAME SHA256``.
        """
        try:
            lines = [line.split() for line in Path(path).read_text().splitlines() if line.strip()]
        except OSError as error:
            raise _bad_file(path, type(error).__name__) from None
        wrong = [i for i, words in enumerate(lines, 1) if len(words) != 2 or len(words[1]) != 64]
        if wrong or not lines:
            raise _bad_file(path, f"line {wrong[0]}" if wrong else "no line")
        return cls({name: digest.lower() for name, digest in lines})

    def require(self, authorization: str | None) -> str:
        """Return the name of the key in an ``Authorization: Bearer`` header.

        Raises:
            UnauthorizedError: there is none, or it is not among the keys.
        """
        scheme, _, key = (authorization or "").partition(" ")
        digest = hash_key(key.strip())
        for name, known in self.hashes.items():
            if scheme.lower() == "bearer" and hmac.compare_digest(known, digest):
                return name
        raise UnauthorizedError(
            "The request has no valid API key.",
            "It has a header `Authorization: Bearer KEY`.",
            "Ask the operator of this service for a key.",
        )


class KeyCheck:
    """ASGI middleware: asks for a key before it reads a request's body."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and scope["path"].startswith(GUARDED):
            try:
                self.keys.require(Headers(scope=scope).get("authorization"))
            except UnauthorizedError as error:
                await error_response(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _bad_file(path: str, came: str) -> EnvironmentProblemError:
    return EnvironmentProblemError(
        f"The key file {path!r} cannot be used ({came}).",
        "Each of its lines is NAME and the SHA-256 of a key.",
        "Write a line with `python -c 'from serve.auth import hash_key; print(hash_key(KEY))'`.",
    )
