"""Files sent as a form become the JSON that they stand for, so that one route reads both.

A form holds one patient: files ``image``, ``ecg`` and, for WFDB, ``ecg_header``, and plain fields.
"""

import base64
import json
from collections import Counter
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.errors import FieldError, ServingError
from serve.http_errors import error_response
from serve.images import is_dicom
from serve.limits import is_form, read_again
from serve.paths import is_question, route_path

MAX_FIELDS = 16
MAX_FILES = 4
MAX_FIELD_BYTES = 1 << 20
"""Bytes of a plain field."""
IN_MEMORY = 1 << 40
"""Files up to this size, and so all, stay in this process's memory while a form is read."""
FORMATS = {"dat": "wfdb", "dcm": "dicom", "csv": "csv", "npy": "npy"}
"""Formats of a recording by the end of its file's name."""
FIELDS = ("question", "text", "series", "leads", "sampling_rate_hz", "unit", "max_tokens")
FILES = ("image", "ecg", "ecg_header")
FORM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "image": {"type": "string", "format": "binary", "description": "PNG, JPEG or DICOM."},
        "ecg": {
            "type": "string",
            "format": "binary",
            "description": "A recording, by its name's end: .dat (WFDB), .dcm, .csv or .npy.",
        },
        "ecg_header": {
            "type": "string",
            "format": "binary",
            "description": "The .hea of a WFDB record.",
        },
        "leads": {"type": "string", "description": "Names, with commas between, for .npy."},
        "sampling_rate_hz": {"type": "number", "description": "For .csv and .npy."},
        "unit": {"enum": ["mV", "uV"], "description": "For .csv and .npy; mV where absent."},
        "series": {"type": "string", "description": "JSON, as `series` of an input."},
        "text": {"type": "string", "description": "A note that goes ahead of the question."},
        "question": {"type": "string", "description": "The task's own where absent."},
        "max_tokens": {"type": "integer", "description": "Tokens generated at most."},
    },
}
"""The form in OpenAPI's words."""


class Uploads:
    """ASGI middleware: hands forms to ``predict`` on as JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, rewritten where it is a form to ``predict``."""
        if not (is_question(scope) and route_path(scope).endswith("/predict") and is_form(scope)):
            await self.app(scope, receive, send)
            return
        try:
            body = json.dumps(await _read(Request(scope, receive))).encode()
        except ServingError as error:
            await error_response(error)(scope, receive, send)
            return
        replaced = (b"content-type", b"content-length")
        kept = [(name, value) for name, value in scope["headers"] if name not in replaced]
        scope["headers"] = [*kept, (b"content-type", b"application/json")]
        await self.app(scope, read_again(body, receive), send)


async def _read(request: Request) -> dict[str, Any]:
    """Return a form as the JSON of ``PredictRequest``.

    Raises:
        FieldError: it cannot be parsed, or has a field that nobody reads, or one twice.
    """
    _require_utf8(request)
    parser = MultiPartParser(
        request.headers,
        request.stream(),
        max_files=MAX_FILES,
        max_fields=MAX_FIELDS,
        max_part_size=MAX_FIELD_BYTES,
    )
    parser.spool_max_size = IN_MEMORY
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError):
        raise FieldError(
            "The form cannot be read.",
            f"It has at most {MAX_FILES} files and {MAX_FIELDS} fields.",
            "Send it with a library, as at /docs.",
        ) from None
    try:
        _require_known_once(form)
        return await _as_json(form)
    finally:
        await form.close()


def _require_utf8(request: Request) -> None:
    """Raise where a form names another encoding: Python takes seconds for 1 MiB of `punycode`."""
    _, options = parse_options_header(request.headers["content-type"])
    charset = options.get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in {"utf-8", "utf8"}:
        raise FieldError(
            f"The form is in {charset[:40]!r}.", "It is in UTF-8.", "Leave `charset` out."
        )


def _require_known_once(form: FormData) -> None:
    for name, num in Counter(name for name, _ in form.multi_items()).items():
        if name not in (*FIELDS, *FILES):
            raise FieldError(
                f"The form has a field {name[:40]!r}.",
                f"It has {', '.join((*FILES, *FIELDS))}.",
                "Leave it out.",
                name[:40],
            )
        if num > 1:
            raise FieldError(
                f"The form has {num} fields {name!r}.",
                "It holds one patient, and each field once.",
                "Send several patients as JSON, see /docs, or a form each.",
                name,
            )


async def _as_json(form: FormData) -> dict[str, Any]:
    patient: dict[str, Any] = {n: _plain(form, n) for n in ("question", "text") if n in form}
    if "image" in form:
        patient["image"] = _data_url(await _bytes(form, "image"))
    if "ecg" in form:
        patient["ecg"] = await _ecg(form)
    if "series" in form:
        patient["series"] = _json(form, "series")
    body: dict[str, Any] = {"inputs": [patient]}
    if "max_tokens" in form:
        body["max_tokens"] = _json(form, "max_tokens")
    return body


async def _ecg(form: FormData) -> dict[str, Any]:
    content = await _bytes(form, "ecg")
    name = getattr(form["ecg"], "filename", None) or ""
    end = name.rpartition(".")[2].lower()
    if end not in FORMATS:
        raise FieldError(
            f"The name of the file `ecg` ends in {end[:10]!r}.",
            f"It ends in {', '.join(FORMATS)}, which tells the format.",
            "Name the file so.",
            "ecg",
        )
    file = {"format": FORMATS[end], "data": base64.b64encode(content).decode()}
    if "ecg_header" in form:
        file["header"] = base64.b64encode(await _bytes(form, "ecg_header")).decode()
    ecg: dict[str, Any] = {"file": file}
    if "leads" in form:
        ecg["leads"] = [lead.strip() for lead in _plain(form, "leads").split(",")]
    if "sampling_rate_hz" in form:
        ecg["sampling_rate_hz"] = _json(form, "sampling_rate_hz")
    if "unit" in form:
        ecg["unit"] = _plain(form, "unit")
    return ecg


async def _bytes(form: FormData, name: str) -> bytes:
    value = form[name]
    if not isinstance(value, UploadFile):
        raise FieldError(f"{name} is plain text.", "It is a file.", "Send it as one.", name)
    return await value.read()


def _plain(form: FormData, name: str) -> str:
    value = form[name]
    if not isinstance(value, str):
        raise FieldError(f"{name} is a file.", "It is plain text.", "Send it as a field.", name)
    return value


def _json(form: FormData, name: str) -> Any:
    try:
        return json.loads(_plain(form, name))
    except (ValueError, RecursionError):
        raise FieldError(f"{name} is no JSON.", "It is.", "See /docs.", name) from None


def _data_url(content: bytes) -> str:
    kind = "application/dicom" if is_dicom(content) else "image/png"  # the reader looks for itself
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
