"""The API's own description: what FastAPI finds, with what it cannot know."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from serve.paths import is_open
from serve.uploads import FORM_SCHEMA

PREDICT = "/v1/tasks/{task}/predict"


class ErrorFacts(BaseModel):
    """What went wrong."""

    message: str = Field(description="What came, what was expected, and what to do next.")
    type: str = Field(description="OpenAI's `error.type`.")
    param: str | None = Field(description="Path of the field at fault in the request's JSON.")
    code: str = Field(description="The cause, for programs.")


class ErrorBody(BaseModel):
    """Every error has OpenAI's form."""

    error: ErrorFacts = Field(description="Text, cause and field.")


def _told(description: str) -> dict[str, Any]:
    return {"model": ErrorBody, "description": description}


FACT_ERRORS: dict[int | str, dict[str, Any]] = {
    400: _told("The request cannot be read; `param` names the field."),
    401: _told("No valid API key."),
    403: _told("The key may not ask this."),
    404: _told("There is no such task, model or sample."),
    429: _told("The key's rate limit is used up; `Retry-After` says until when."),
    503: _told("The model cannot answer now; `Retry-After` says when to ask again."),
}
QUESTION_ERRORS = FACT_ERRORS | {
    408: _told("The body did not come in time."),
    413: _told("The body is too large."),
    504: _told("The answer took too long."),
}


def describe_api(app: FastAPI, with_keys: bool) -> None:
    """Let ``app.openapi()`` tell of forms, keys and the errors that are really sent."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app, with_keys)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _described(app: FastAPI, with_keys: bool) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # FastAPI's own; here it is 400
    form = {"schema": FORM_SCHEMA}
    schema["paths"][PREDICT]["post"]["requestBody"]["content"]["multipart/form-data"] = form
    schemas = schema["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    if with_keys:
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for name, path in schema["paths"].items():
            for operation in path.values():
                operation["security"] = [] if is_open(name) else [{"key": []}]
    return schema
