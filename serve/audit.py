"""Who asked what, when: one JSON line a question, and of its input nothing but a keyed hash.

A question that was refused has a line too. Its ``key`` is null where nobody's key was found, and
its hash where the body was not read to the end.

The hash is HMAC-SHA256 of the request's body under a key that lies beside the log, so that whoever
holds both a request and the key can find its line, and nobody can guess an input from the line.
"""

import hashlib
import hmac
import json
import os
import secrets
import uuid
from datetime import UTC, datetime
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.notes import notes
from serve.paths import is_question

HASH_KEY = "hash.key"
ONLY_OWNER = 0o600


class AuditLog:
    """This process's file in the log's folder."""

    def __init__(self, folder: str) -> None:
        """Name a file of this process's own, so that no two processes write into one.

        Args:
            folder: A local folder, made where it is absent; its hash key is made once.
        """
        home = Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        self.key = _hash_key(home / HASH_KEY)
        name = f"audit-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.jsonl"
        self.file = home / name

    def write(self, scope: Scope, status: int, digest: str | None) -> None:
        """Add the line of one question; ``status`` is what was sent, 0 for nothing."""
        told = notes(scope)
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "key": told.key,
            "path": scope["path"],
            "task": told.task,
            "bundle_version": told.bundle_version,
            "status": told.status(status),
            "input_hmac_sha256": digest,
        }
        with os.fdopen(_private(self.file, os.O_APPEND), "a") as file:
            file.write(json.dumps(line) + "\n")

    def digest(self) -> "hmac.HMAC":
        """Return a keyed hash that takes a body."""
        return hmac.new(self.key, digestmod=hashlib.sha256)


class Audit:
    """ASGI middleware: writes a line for every question."""

    def __init__(self, app: ASGIApp, audit: AuditLog) -> None:
        self.app = app
        self.audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and write down that it came."""
        if not is_question(scope):
            await self.app(scope, receive, send)
            return
        digest, whole, status = self.audit.digest(), False, 0

        async def hashed() -> Message:
            nonlocal whole
            message = await receive()
            digest.update(message.get("body", b""))
            whole |= message["type"] == "http.request" and not message.get("more_body", False)
            return message

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, hashed, watched)
        except Exception:
            status = 500  # the door outside of this answers so, where it still can
            raise
        finally:
            self.audit.write(scope, status, digest.hexdigest() if whole else None)


def _hash_key(path: Path) -> bytes:
    """Return the log's key; several processes may start at once, and the first one's stays."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    os.write(handle := _private(draft, os.O_EXCL), secrets.token_bytes(32))
    os.close(handle)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_bytes()


def _private(path: Path, flags: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | flags, ONLY_OWNER)
