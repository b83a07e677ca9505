"""What the values of a request may be, and how many: bounds that no operator's limit exceeds.

They hold while a body is read, so that a few bytes a value never become gigabytes of objects, or of
errors about them: lists are counted before they are read, and read up to the first mistake.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

T = TypeVar("T")
MAX_LISTED = 4096
"""Patients, messages or parts in one list."""
MAX_SAMPLES = 10_000_000
"""Samples of one lead."""
MAX_HOURS = 100_000
"""Values of one feature."""
MAX_FEATURES = 1000
"""Features in one table of a time series."""
MAX_FIELDS = 100
"""Fields of any other object."""


def at_most(num: int) -> Callable[[Any], Any]:
    """Return a check that refuses a longer list or object before anything in it is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > num:
            raise ValueError(f"at most {num} of these can be read")
        return value

    return check


class Sent(BaseModel):
    """A part of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few(cls, fields: Any) -> Any:
        return at_most(MAX_FIELDS)(fields)


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair is no character") from None
    return text


def _nothing(value: Any) -> None:
    if value not in (None, []):
        raise ValueError("only null can be read here: this service has no tools, audio or refusals")


Text = Annotated[str, AfterValidator(_whole)]
"""Characters: JSON can spell half of one, and no tokenizer reads it.

Strings with a bound need no such look: pydantic counts their characters, and refuses halves.
"""
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A JSON number; no string, no true or false, no NaN."""
Listed = Annotated[list[T], Field(fail_fast=True), BeforeValidator(at_most(MAX_LISTED))]
"""Patients, messages or parts."""
Lead = Annotated[list[Finite], Field(fail_fast=True), BeforeValidator(at_most(MAX_SAMPLES))]
"""Samples of one lead."""
Hours = Annotated[list[Finite | None], Field(fail_fast=True), BeforeValidator(at_most(MAX_HOURS))]
"""Values of one feature; null where nothing was measured."""
Hourly = Finite | None | Hours
"""One value, or one an hour."""
Table = Annotated[dict[Text, Hourly], BeforeValidator(at_most(MAX_FEATURES))]
"""One time series by feature."""
Nothing = Annotated[
    None,
    BeforeValidator(
        _nothing, json_schema_input_type=Annotated[list[Any], Field(max_length=0)] | None
    ),
]
"""What OpenAI's clients send back of an answer's empty fields: null, or an empty list."""
