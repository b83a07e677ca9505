"""The importers' reasons for refusing an example, as refusals of a request's field."""

from collections.abc import Iterator
from contextlib import contextmanager

from fedkim_ray.errors import EnvironmentProblemError, RowRejectedError
from serve.errors import FieldError


@contextmanager
def refusing(path: str) -> Iterator[None]:
    """Let a reader's refusal name the field that it read.

    Raises:
        FieldError: the block rejects its input.
    """
    try:
        yield
    except RowRejectedError as error:
        which = f" ({error.column})" if error.column else ""
        raise FieldError(
            f"{path}: {error.came}{which}", error.expected, error.remedy, path
        ) from None
    except EnvironmentProblemError as error:
        came = f"{path} cannot be read here: {error.came}"
        raise FieldError(came, error.expected, "Ask the operator of this service.", path) from None
