"""A file inside a JSON string."""

import base64
import binascii

from serve.errors import FieldError


def decode_base64(text: str, max_bytes: int, path: str) -> bytes:
    """Return the bytes of a field, once its length is known to be within bounds.

    Raises:
        FieldError: it is too large, or no base64.
    """
    if len(text) * 3 // 4 > max_bytes:
        raise FieldError(
            f"{path} holds too large a file.",
            f"At most {max_bytes} bytes are read.",
            "Send a smaller file.",
            path,
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FieldError(
            f"{path} is not valid base64.",
            "It is standard base64 with padding.",
            "Encode the file's bytes again.",
            path,
        ) from None
