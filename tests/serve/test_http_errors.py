"""Paths of fields in error messages, and errors that cross processes."""

import json
import pickle

import pytest

from serve.errors import FieldError, OverloadedError, ServingError
from serve.http_errors import error_response, field_path, validation_error

BODY = {"messages": [{"role": "user", "content": [{"type": "input_ecg", "input_ecg": {}}]}]}


@pytest.mark.parametrize(
    ("loc", "missing", "path"),
    [
        (("body", "messages", 0, "role"), False, "messages[0].role"),
        (
            ("body", "messages", 0, "content", 0, "input_ecg", "input_ecg", "leads"),
            True,
            "messages[0].content[0].input_ecg.leads",
        ),
        (("body", "model"), True, "model"),
        (("body",), False, ""),
    ],
)
def test_a_place_reads_as_in_the_request(
    loc: tuple[str | int, ...], missing: bool, path: str
) -> None:
    assert field_path(loc, BODY, missing) == path


@pytest.mark.parametrize(
    "error", [FieldError("Came.", "Expected.", "Do.", "image"), OverloadedError("A.", "B.", "C.")]
)
def test_errors_survive_the_trip_between_processes(error: ServingError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.field) == (type(error), str(error), error.field)


def test_an_overloaded_service_says_when_to_come_back() -> None:
    answer = error_response(OverloadedError("A.", "B.", "C."))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


def test_three_of_many_problems_are_named() -> None:
    problems = [{"loc": ("body", name), "msg": "No.", "type": "x"} for name in "abcde"]
    error = validation_error(problems, dict.fromkeys("abcde"))
    assert "a: No.; b: No.; c: No. (5 problems in all)" in str(error)
    assert error.field == "a"


def test_half_a_character_in_a_name_can_be_written() -> None:
    answer = error_response(FieldError("Came.", "Expected.", "Do.", "x\ud800"))
    assert json.loads(answer.body)["error"]["param"] == "x\\ud800"
