"""Keyed hashes: who a subject is here, and where the draw puts it.

    u(purpose, subject) = HMAC-SHA256(key, purpose / seed / subject), as a number in [0, 1)

The key stays with the data owner. Without it nobody can tell whether a known hospital number is in
a data root, nor into which part of the split it fell. Sources whose subject numbers are public
anyway use a key that is public too, so that everybody gets the same split of them.

Source: HMAC, RFC 2104, https://www.rfc-editor.org/rfc/rfc2104
"""

import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from fedkim_ray.errors import DataError

KEY_VARIABLE = "FEDKIM_SUBJECT_KEY"
KEY_BYTES = 32
OPEN_KEY = b"fedkim: the key of sources whose subject numbers are public"


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """A secret of the data owner."""

    secret: bytes = field(repr=False)

    def digest(self, *parts: object) -> bytes:
        """Return the HMAC-SHA256 of ``parts``; no two lists of parts share a text."""
        text = b"".join(b"%d:%b" % (len(p), p) for p in (str(x).encode() for x in parts))
        return hmac.digest(self.secret, text, "sha256")

    def identifier(self, *parts: object) -> str:
        """Return 96 bits of the hash in hexadecimal."""
        return self.digest("id", *parts)[:12].hex()

    def uniform(self, *parts: object) -> float:
        """Return the hash as a number in [0, 1)."""
        return int.from_bytes(self.digest("draw", *parts)[:7], "big") / (1 << 56)

    @property
    def fingerprint(self) -> str:
        """A name of the key that tells nothing about it."""
        return self.digest("fingerprint")[:6].hex()


def default_key_path() -> Path:
    """Return ``$FEDKIM_SUBJECT_KEY``, by default ``~/.config/fedkim/subject.key``."""
    default = Path.home() / ".config" / "fedkim" / "subject.key"
    return Path(os.environ.get(KEY_VARIABLE) or default)


def open_key() -> SubjectKey:
    """Return the public key of public sources."""
    return SubjectKey(OPEN_KEY)


def load_key(path: Path) -> SubjectKey:
    """Read a key file, made with new random bytes and for its owner's eyes alone if absent.

    Raises:
        DataError: the file is no key.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
    text = path.read_text().strip()
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) < KEY_BYTES:
        raise DataError(
            f"{str(path)!r} is no key file.",
            f"A key is {KEY_BYTES} random bytes in hexadecimal, on one line.",
            "Name another file, which is made where it does not exist, or restore the key: with "
            "another key the subjects get other names and another split.",
        )
    return SubjectKey(secret)
