"""What fails inside tells the asker and the log that it failed, and nothing of the patient."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serve.api import create_app
from serve.engine import EngineRequest, Scored
from serve.gateway import Gateway
from serve.limits import Limits
from serve.preparing import LocalPreparer
from serve.transformers_engine import TransformersEngine

SECRET = "Jane Doe 4711"
PATIENT = {"inputs": [{"series": {"lab": {"lab_0": 1.5}}, "text": SECRET}]}
URL = "/v1/tasks/mortality/predict"


def failing(*_: object, **__: object) -> Any:
    raise ValueError(f"the note of {SECRET}")


def test_a_failing_model_is_told_without_its_words(
    client: TestClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.transformers_engine.score", failing)
    with caplog.at_level(logging.DEBUG):
        answer = client.post(URL, json=PATIENT)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "ValueError" in caplog.text
    assert SECRET not in answer.text + caplog.text


def test_a_failing_decoder_is_told_without_its_words(
    engine: TransformersEngine,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LocalPreparer, "_decode", failing)
    with TestClient(create_app(Gateway(engine))) as web, caplog.at_level(logging.DEBUG):
        answer = web.post(URL, json=PATIENT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "ValueError" in caplog.text
    assert SECRET not in answer.text + caplog.text


class Slow:
    """An engine that takes its time over an answer."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.describe = engine.describe
        self.generate = engine.generate

    async def score(self, requests: Sequence[EngineRequest]) -> list[Scored]:
        """Answer too late; see ``Engine``."""
        await asyncio.sleep(30)
        raise AssertionError("nobody waits so long")


def test_an_answer_that_takes_too_long_is_given_up(engine: TransformersEngine) -> None:
    gateway = Gateway(Slow(engine), Limits(request_s=0.05))
    with TestClient(create_app(gateway)) as web:
        answer = web.post(URL, json=PATIENT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")
