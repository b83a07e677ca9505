"""What fails inside tells the asker and the log that it failed, and nothing of the patient."""

import asyncio
import logging
import pickle
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient

from fedkim_ray.data.tasks import task_table
from serve.api import create_app
from serve.app import InputsReplica, ServeArgs
from serve.engine import EngineRequest, Scored
from serve.engine_replica import EngineReplica
from serve.errors import FieldError, InternalError
from serve.gateway import Gateway
from serve.inputs import RawInput
from serve.limits import Limits
from serve.preparing import LocalPreparer
from serve.refusals import Refusal
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
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
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


class FailingPreparer:
    """Fails inside, with the patient's words."""

    async def prepare(self, *_: object) -> Any:
        """Fail; see ``Preparer``."""
        failing()


class FailingEngine:
    """Fails inside, with the patient's words."""

    async def score(self, *_: object) -> Any:
        """Fail; see ``Engine``."""
        failing()

    async def generate(self, *_: object) -> AsyncGenerator[str, None]:
        """Fail after a piece; see ``Engine``."""
        yield "piece"
        failing()

    def close(self) -> None:
        """Do nothing."""


def test_replicas_return_what_serve_would_log_if_they_raised_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inputs, engine = InputsReplica.__new__(InputsReplica), EngineReplica.__new__(EngineReplica)
    inputs.preparer = FailingPreparer()  # type: ignore[assignment]
    engine.engine = FailingEngine()  # type: ignore[assignment]
    question: Any = None

    async def ask() -> list[Any]:
        pieces = [piece async for piece in engine.generate(question)]
        return [await inputs.prepare([], question), await engine.score([]), *pieces]

    *refused, piece, torn = asyncio.run(ask())
    assert piece == "piece"
    for refusal in (*refused, torn):
        assert isinstance(refusal.error, InternalError)
        assert SECRET not in str(refusal.error)
    assert "ValueError" in caplog.text
    assert SECRET not in caplog.text


def test_a_decoders_refusal_is_an_answer_too(bundle_url: str) -> None:
    replica = InputsReplica(ServeArgs(bundle=bundle_url, no_auth=True))
    raw = RawInput(series={"lab": {SECRET: 1.0}})
    answer = asyncio.run(replica.prepare([raw], task_table()["mortality"]))
    assert isinstance(answer, Refusal)
    assert isinstance(pickle.loads(pickle.dumps(answer)).error, FieldError)


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
