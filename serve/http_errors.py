"""Errors as HTTP answers, in OpenAI's form: ``{"error": {message, type, param, code}}``."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fedkim_ray import telemetry
from fedkim_ray.metric_names import REJECTIONS
from serve.errors import FieldError, ServingError

MAX_NAMED = 3
"""Problems of one request that are named; a wrong array would name thousands."""


def error_body(error: ServingError) -> dict[str, Any]:
    """Return the JSON of an error."""
    return {
        "error": {
            "message": _writable(str(error)),
            "type": error.kind,
            "param": _writable(error.field) or None,
            "code": error.code,
        }
    }


def _writable(text: str) -> str:
    """Return a text as UTF-8 can write it: a name in the request may be half a character."""
    return text.encode(errors="backslashreplace").decode()


def error_response(error: ServingError) -> JSONResponse:
    """Return the HTTP answer of an error, and count it by its cause."""
    count(error)
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 408:
        headers["Connection"] = "close"  # the rest of the body may still come, and nobody reads it
    return JSONResponse(error_body(error), error.status, headers)


def count(error: ServingError) -> None:
    """Count a request that is refused, or whose answer broke off, by its cause."""
    telemetry.inc(REJECTIONS, cause=error.code)


def handle_errors(app: FastAPI) -> None:
    """Give every error of ``app`` OpenAI's form; none shows a traceback or a sent value."""

    @app.exception_handler(ServingError)
    async def _own(request: Request, error: ServingError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(validation_error(error.errors(), error.body))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        body = {"message": str(error.detail), "type": "invalid_request_error"}
        whole = {"error": {**body, "param": None, "code": str(error.status_code)}}
        return JSONResponse(whole, error.status_code, error.headers)


def validation_error(problems: Sequence[Any], body: Any) -> FieldError:
    """Return pydantic's findings as one error that names the fields and no value."""
    first = problems[:MAX_NAMED]
    named = [(field_path(p["loc"], body, p["type"] == "missing"), p["msg"]) for p in first]
    told = "; ".join(f"{path or 'body'}: {message}" for path, message in named)
    more = f" ({len(problems)} problems in all)" if len(problems) > MAX_NAMED else ""
    return FieldError(
        f"The request cannot be read: {told}{more}.",
        "Every field, its unit and its limits are described at /docs.",
        "Correct the fields that are named.",
        named[0][0],
    )


def field_path(loc: Sequence[str | int], body: Any, missing: bool = False) -> str:
    """Return a place in the request's JSON as ``messages[0].content[1].image_url.url``.

    Pydantic puts the names of the alternatives it tried between the steps; what the body does
    not have is such a name, but for a missing field at the very end.
    """
    path = ""
    place = body
    steps = list(loc[1:]) if loc and loc[0] in {"body", "query", "path", "header"} else list(loc)
    for index, step in enumerate(steps):
        inside = isinstance(place, dict) and step in place
        within = isinstance(place, list) and isinstance(step, int) and step < len(place)
        if inside or within:
            place = place[step]
        elif not (missing and index == len(steps) - 1):
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path.lstrip(".")
