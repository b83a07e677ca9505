"""Errors of the served model, each with the HTTP status it becomes.

The text says what came, what was expected and what to do next; it never holds a value of a
patient's data. ``field`` is the path of the offending field in the request's JSON.
"""

from typing import ClassVar

from fedkim_ray.errors import RequestError


class ServingError(RequestError):
    """Base class: a request that is answered with an error.

    Args:
        came: What was found.
        expected: What would have been right.
        remedy: What the sender can do about it.
        field: Path of the field in the request's JSON; empty where no field is to blame.
    """

    status: ClassVar[int] = 400
    kind: ClassVar[str] = "invalid_request_error"
    """OpenAI's ``error.type``."""
    code: ClassVar[str] = "invalid_value"
    """OpenAI's ``error.code``; also the cause in metrics."""
    retry_after_s: int | None = None

    def __init__(self, came: str, expected: str, remedy: str, field: str = "") -> None:
        super().__init__(came, expected, remedy)
        self.args = (came, expected, remedy, field)
        self.field = field


class FieldError(ServingError):
    """A field of the request has an impossible value."""


class TooLargeError(ServingError):
    """The request is larger than this service reads."""

    status = 413
    code = "too_large"


class UploadTimeoutError(ServingError):
    """The request's body did not come in time."""

    status = 408
    code = "upload_timeout"


class UnknownNameError(ServingError):
    """The request names a task, model or sample that is not here."""

    status = 404
    code = "not_found"


class UnauthorizedError(ServingError):
    """The request has no valid API key."""

    status = 401
    kind = "authentication_error"
    code = "invalid_api_key"


class ForbiddenError(ServingError):
    """The request's key may not do this."""

    status = 403
    kind = "permission_error"
    code = "insufficient_scope"


class RateLimitedError(ServingError):
    """The key has asked as often as it may for now."""

    status = 429
    kind = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(
        self, came: str, expected: str, remedy: str, field: str = "", retry_after_s: int = 1
    ) -> None:
        super().__init__(came, expected, remedy, field)
        self.args = (came, expected, remedy, field, retry_after_s)
        self.retry_after_s = retry_after_s


class OverloadedError(ServingError):
    """More requests wait than this service holds."""

    status = 503
    kind = "server_error"
    code = "overloaded"
    retry_after_s = 2


class NotReadyError(ServingError):
    """The model cannot answer now."""

    status = 503
    kind = "server_error"
    code = "not_ready"
    retry_after_s = 5


class InternalError(ServingError):
    """Code failed on this request, and would fail again."""

    status = 500
    kind = "server_error"
    code = "internal_error"


class StaleInputsError(ServingError):
    """The inputs were prepared by another bundle than the engine's: one of the two rolls in."""

    status = 503
    kind = "server_error"
    code = "not_ready"
    retry_after_s = 5


class DeadlineError(ServingError):
    """The answer took longer than a request may take."""

    status = 504
    kind = "server_error"
    code = "deadline"
