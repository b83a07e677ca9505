"""API keys: a file of names, SHA-256 hashes and scopes, never the keys themselves.

Each line is ``NAME SHA256 [SCOPE,SCOPE]``; ``python -m serve.auth NAME [SCOPE,SCOPE]`` makes a key
and its line. Keys have 256 random bits, so a plain hash tells nothing about them. A name may have
several lines: while a key is replaced, the old one and the new one both open.
"""

import hashlib
import hmac
import logging
import secrets
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from fedkim_ray.errors import EnvironmentProblemError
from serve.errors import ForbiddenError, ServingError, UnauthorizedError
from serve.http_errors import error_response
from serve.notes import notes
from serve.paths import is_open, route_path

log = logging.getLogger(__name__)
SCOPES = ("predict", "metrics", "admin")
"""``predict`` asks and lists what is served, ``metrics`` reads metrics, ``admin`` may do both."""
HASH_DIGITS = 64
LOOK_S = 5.0
"""Seconds between two looks at whether the key file has changed."""


def hash_key(key: str) -> str:
    """Return the hash of a key as it stands in the file."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What is known of one key."""

    digest: str
    scopes: frozenset[str] = frozenset({"predict"})

    def opens(self, scope: str) -> bool:
        """Return whether this key may do what ``scope`` allows."""
        return scope in self.scopes or "admin" in self.scopes


class Keys(Protocol):
    """Who may ask."""

    def require(self, authorization: str | None, scope: str) -> str:
        """Return the name of the key in an ``Authorization: Bearer`` header.

        Raises:
            UnauthorizedError: there is none, or it is not among the keys.
            ForbiddenError: the key has not this scope.
        """
        ...


class ApiKeys:
    """The keys that may ask, each with its owner's name."""

    def __init__(self, keys: Iterable[tuple[str, KeyFacts]]) -> None:
        self.keys = list(keys)

    @classmethod
    def from_file(cls, path: str) -> "ApiKeys":
        """Read a key file.

        Raises:
            EnvironmentProblemError: it is absent, empty, or a line is none of a key's.
        """
        try:
            lines = [line.split() for line in Path(path).read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise _bad_file(path, type(error).__name__) from None
        wrong = [i for i, words in enumerate(lines, 1) if not _is_key(words)]
        if wrong or not lines:
            raise _bad_file(path, f"line {wrong[0]}" if wrong else "no line")
        return cls((words[0], _facts(words)) for words in lines)

    def require(self, authorization: str | None, scope: str) -> str:
        """Return whose key a header has; see ``Keys``."""
        scheme, _, key = (authorization or "").partition(" ")
        digest = hash_key(key.strip())
        for name, facts in self.keys:
            if scheme.lower() == "bearer" and hmac.compare_digest(facts.digest, digest):
                if facts.opens(scope):
                    return name
                raise ForbiddenError(
                    f"The key {name!r} has the scopes {', '.join(sorted(facts.scopes))}.",
                    f"This needs {scope!r}.",
                    "Ask the operator of this service for such a key.",
                )
        raise UnauthorizedError(
            "The request has no valid API key.",
            "It has a header `Authorization: Bearer KEY`.",
            "Ask the operator of this service for a key.",
        )


class KeyFile:
    """The keys of a file as it is now; those it had before, where it has become unusable."""

    def __init__(self, path: str) -> None:
        """Read the file.

        Raises:
            EnvironmentProblemError: see ``ApiKeys.from_file``.
        """
        self.path = path
        self._version = _version(path)
        self._keys = ApiKeys.from_file(path)
        self._look_at = time.monotonic() + LOOK_S

    def require(self, authorization: str | None, scope: str) -> str:
        """Return whose key a header has; see ``Keys``."""
        if time.monotonic() >= self._look_at:
            self._look()
        return self._keys.require(authorization, scope)

    def _look(self) -> None:
        """Read the file where it has changed."""
        self._look_at = time.monotonic() + LOOK_S
        version = _version(self.path)
        if version == self._version:
            return
        self._version = version  # taken before the read: a later change is another version
        try:
            self._keys = ApiKeys.from_file(self.path)
        except EnvironmentProblemError as error:
            log.error("%s The keys that it had before stay valid.", error)


class KeyCheck:
    """ASGI middleware: asks for a key before it reads a request's body."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        wanted = _wanted_scope(scope)
        if wanted is not None:
            try:
                header = Headers(scope=scope).get("authorization")
                notes(scope).key = self.keys.require(header, wanted)
            except ServingError as error:
                await error_response(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _wanted_scope(scope: Scope) -> str | None:
    """Return what a request's key must open; None where it needs no key."""
    if scope["type"] != "http":
        return None
    path = route_path(scope)
    if is_open(path):
        return None
    return "metrics" if path.startswith("/metrics") else "predict"


def _version(path: str) -> tuple[int, ...] | None:
    """Return what tells a file from the one that was there before; None where there is none."""
    try:
        facts = Path(path).stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


def _is_key(words: list[str]) -> bool:
    if len(words) not in (2, 3) or len(words[1]) != HASH_DIGITS:
        return False
    return len(words) == 2 or set(words[2].split(",")) <= set(SCOPES)


def _facts(words: list[str]) -> KeyFacts:
    if len(words) == 2:
        return KeyFacts(words[1].lower())
    return KeyFacts(words[1].lower(), frozenset(words[2].split(",")))


def _bad_file(path: str, came: str) -> EnvironmentProblemError:
    return EnvironmentProblemError(
        f"The key file {path!r} cannot be used ({came}).",
        f"Each of its lines is NAME, the SHA-256 of a key, and scopes of {', '.join(SCOPES)}.",
        "Make a key and its line with `python -m serve.auth NAME SCOPE,SCOPE`.",
    )


def main(arguments: list[str]) -> str:
    """Return a new key, and the line that lets it in."""
    name, scopes = (arguments + ["", "predict"][len(arguments) :])[:2]
    key = f"fk-{secrets.token_urlsafe(32)}"
    line = f"{name} {hash_key(key)} {scopes}"
    if not name or not _is_key(line.split()):
        return f"usage: python -m serve.auth NAME [{','.join(SCOPES)}]"
    return f"Key, shown this once:   {key}\nLine for the key file:  {line}"


if __name__ == "__main__":
    print(main(sys.argv[1:]))
