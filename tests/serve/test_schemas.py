"""Requests: every field is described, and no value is bent into another."""

from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from serve.schemas import ChatRequest, Ecg, PatientInput, PredictRequest

OUTPUTS = {"HTTPValidationError", "ValidationError"}


def test_every_field_of_a_request_is_described(app: FastAPI) -> None:
    schemas: dict[str, Any] = app.openapi()["components"]["schemas"]
    asked, seen = ["ChatRequest", "PredictRequest"], set[str]()
    while asked:
        name = asked.pop()
        if name in seen:
            continue
        seen.add(name)
        for field, facts in schemas[name]["properties"].items():
            assert facts.get("description"), f"{name}.{field}"
            asked += [n for n in schemas if f"/{n}'" in str(facts)]
    assert {"Ecg", "Message", "PatientInput", "ImageUrl"} <= seen


def test_words_alone_become_one_part() -> None:
    chat = ChatRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
    )
    assert [part.model_dump() for part in chat.messages[0].content] == [
        {"type": "text", "text": "Hello"}
    ]


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
