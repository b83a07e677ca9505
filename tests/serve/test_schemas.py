"""Requests: every field is described, and no value is bent into another."""

from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from serve.limits import Limits
from serve.schemas import ChatRequest, Ecg, PatientInput, PredictRequest


def test_every_field_of_requests_and_answers_is_described(app: FastAPI) -> None:
    schemas: dict[str, Any] = app.openapi()["components"]["schemas"]
    fields = {
        f"{name}.{field}": facts
        for name, schema in schemas.items()
        for field, facts in schema.get("properties", {}).items()
    }
    assert [field for field, facts in fields.items() if not facts.get("description")] == []
    assert {"ImageUrl.url", "PatientInput.ecg", "Usage.total_tokens", "Sample.id"} <= fields.keys()


def test_words_alone_become_one_part() -> None:
    chat = ChatRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
    )
    assert [part.model_dump() for part in chat.messages[0].content] == [
        {"type": "text", "text": "Hello"}
    ]


def test_openais_other_fields_may_be_null_and_no_more() -> None:
    chat = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
    plain = ChatRequest.model_validate(chat)
    assert ChatRequest.model_validate(chat | {"tools": None, "metadata": None}) == plain
    for other in ({"tools": []}, {"logprobs": False}, {"toolz": None}):
        with pytest.raises(ValidationError, match="Extra inputs"):
            ChatRequest.model_validate(chat | other)


@pytest.mark.parametrize("value", ["1.5", True, float("nan"), float("inf"), [[1.0]]])
def test_only_finite_json_numbers_are_numbers(value: object) -> None:
    with pytest.raises(ValidationError):
        PatientInput.model_validate({"series": {"lab": {"sodium": [140, value]}}})
    with pytest.raises(ValidationError):
        Ecg.model_validate({"leads": ["I"], "sampling_rate_hz": 100, "data": [[value]]})


def test_whole_numbers_are_numbers_too() -> None:
    patient = PatientInput.model_validate({"series": {"lab": {"sodium": [140, None]}}})
    assert patient.series == {"lab": {"sodium": [140.0, None]}}


@pytest.mark.parametrize(
    "body", [{}, {"inputs": []}, {"inputs": [{}], "tools": []}, {"inputs": [{"question": ""}]}]
)
def test_a_request_without_its_fields_or_with_others_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PredictRequest.model_validate(body)


ONE_LEAD = {"leads": ["I"], "sampling_rate_hz": 100}


@pytest.mark.parametrize(
    "inputs",
    [
        [{}] * 5000,
        [{"x": 1}] * 1000,
        [{f"x{i}": 1 for i in range(1000)}],
        [{"ecg": ONE_LEAD | {"data": [[""] * 1000] * 64}}],
        [{"ecg": ONE_LEAD | {"leads": [0] * 64}}],
        [{"series": {"lab": {"sodium": [""] * 1000}}}],
        [{"series": {"lab": {f"x{i}": "" for i in range(1001)}}}],
        [{"series": {f"x{i}": {} for i in range(1000)}}],
    ],
    ids=["many", "wrong", "fields", "samples", "leads", "hours", "features", "tables"],
)
def test_reading_ends_at_a_bound_or_the_first_mistake(inputs: list[Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        PredictRequest.model_validate({"inputs": inputs})
    assert caught.value.error_count() <= 2  # a value that is neither a number nor a list is two


@pytest.mark.parametrize("content", ["x", [{"type": "text", "text": "x"}] * 5000, [0] * 1000])
def test_a_chat_has_as_few_mistakes(content: Any) -> None:
    chat = {"model": "m", "messages": [{"role": "nobody", "content": content}] * 1000}
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate(chat)
    assert caught.value.error_count() <= 2


def test_an_operators_limit_is_within_the_bounds() -> None:
    assert Limits(inputs=4096).inputs == 4096
    with pytest.raises(ValidationError, match="4096"):
        Limits(inputs=4097)


@pytest.mark.parametrize("stop", ["Patient", ["a", "b", "c", "Patient"]])
def test_a_stop_text_may_be_longer_than_the_list_of_them(stop: str | list[str]) -> None:
    chat = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stop": stop}
    assert ChatRequest.model_validate(chat).stop == stop


@pytest.mark.parametrize(
    "field", ["refusal", "annotations", "audio", "function_call", "tool_calls"]
)
def test_empty_fields_of_an_answer_may_come_back_and_full_ones_may_not(field: str) -> None:
    said = {"role": "assistant", "content": "No."}
    for empty in (None, []):
        ChatRequest.model_validate({"model": "m", "messages": [said | {field: empty}]})
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for full in ("x", call, [call]):
        with pytest.raises(ValidationError, match="this service has no tools"):
            ChatRequest.model_validate({"model": "m", "messages": [said | {field: full}]})
