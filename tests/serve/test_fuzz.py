"""Requests that nobody thought of: made up from the API's own description, broken files and texts.

The unmarked pass is short; `slow` is longer, and `make test-all` multiplies it. Whatever comes, no
answer is a server's failure, each fits the description, and none tells a value back.
"""

import base64
import contextlib
import io
import json
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis import GenerationMode, checks

CHECKED = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


TIMES = int(os.environ.get("FEDKIM_FUZZ_TIMES", "1"))
"""How many times as much the slow pass asks."""
KINDLY = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
OPERATIONS = [
    *("POST /v1/chat/completions", "POST /v1/tasks/{task}/predict", "GET /v1/models"),
    *("GET /v1/models/{model}", "GET /v1/tasks", "GET /v1/experts", "GET /v1/samples"),
    *("GET /v1/samples/{sample_id}", "GET /healthz", "GET /readyz", "GET /metrics"),
]


def ask_what_is_described(app: FastAPI, operation: str, times: int) -> None:
    """Make requests up from one operation's description, good ones and bad ones, and ask them."""
    method, path = operation.split()
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    for mode in GenerationMode:
        strategy = schema[path][method].as_strategy(generation_mode=mode)

        @settings(KINDLY, max_examples=times)
        @given(case=strategy)
        def ask(case: Any) -> None:
            case.call_and_validate(checks=CHECKED)

        with contextlib.suppress(Unsatisfiable):  # a GET without parameters cannot be asked badly
            ask()


def test_every_operation_is_asked(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    assert sorted(OPERATIONS) == sorted(f"{m.upper()} {p}" for p, ms in paths.items() for m in ms)


@pytest.mark.parametrize("operation", OPERATIONS[1:])
def test_made_up_requests_are_answered_as_described(app: FastAPI, operation: str) -> None:
    ask_what_is_described(app, operation, 3)


@pytest.mark.slow
@pytest.mark.timeout(600 * TIMES)
@pytest.mark.parametrize("operation", OPERATIONS[:2])
def test_many_made_up_requests_are_answered_as_described(app: FastAPI, operation: str) -> None:
    ask_what_is_described(app, operation, 60 * TIMES)


def png() -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(sink, "PNG")
    return sink.getvalue()


def jpeg() -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(sink, "JPEG")
    return sink.getvalue()


def dicom(name: str) -> bytes:
    data = pytest.importorskip("pydicom.data")
    with open(data.get_testdata_file(name, download=False), "rb") as file:
        return bytes(file.read())[:20_000]


def npy() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.zeros((2, 200), np.float32))
    return sink.getvalue()


def csv() -> bytes:
    return b"I,II\n" + b"0.1,0.2\n" * 200


FILES: dict[str, Callable[[], bytes]] = {
    "png": png,
    "jpeg": jpeg,
    "dicom": lambda: dicom("CT_small.dcm"),
    "waveform": lambda: dicom("waveform_ecg.dcm"),
    "npy": npy,
    "csv": csv,
    "wfdb": lambda: b"r 2 100 200\nr.dat 16 1000(0)/mV 16 0 0 0 0 I\nr.dat 16 1000/mV 16 0 II\n",
}


def broken(content: bytes, chance: random.Random) -> bytes:
    """Cut a file, change bytes of it, or repeat a part."""
    change = chance.randrange(3)
    place = chance.randrange(len(content))
    if change == 0:
        return content[:place]
    if change == 1:
        changed = bytearray(content)
        for _ in range(chance.randrange(1, 8)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        return bytes(changed)
    return content[:place] + content[place // 2 :]


def request(kind: str, content: bytes) -> tuple[str, dict[str, Any]]:
    """Return the task and the input that carry a file."""
    text = base64.b64encode(content).decode()
    if kind in ("png", "jpeg", "dicom"):
        media = "application/dicom" if kind == "dicom" else f"image/{kind}"
        return "covid19", {"image": f"data:{media};base64,{text}"}
    file = {"format": {"waveform": "dicom"}.get(kind, kind), "data": text}
    if kind == "wfdb":
        file |= {"header": text, "data": base64.b64encode(bytes(800)).decode()}
    beside = {"sampling_rate_hz": 100, "leads": ["I", "II"]}
    return "ecg_abnormal", {"ecg": {"file": file} | (beside if kind in ("npy", "csv") else {})}


def ask_about_broken(client: TestClient, kind: str, times: int) -> set[int]:
    chance = random.Random(kind)
    content = FILES[kind]()
    statuses = set()
    for _ in range(times):
        task, patient = request(kind, broken(content, chance))
        answer = client.post(f"/v1/tasks/{task}/predict", json={"inputs": [patient]})
        statuses.add(answer.status_code)
        if answer.status_code != 200:
            assert answer.json()["error"]["param"].startswith("inputs[0]"), answer.text
            assert "Traceback" not in answer.text
    return statuses


@pytest.mark.parametrize("kind", FILES)
def test_broken_files_are_refused_by_their_field(client: TestClient, kind: str) -> None:
    assert ask_about_broken(client, kind, 8) <= {200, 400}


@pytest.mark.slow
@pytest.mark.timeout(600 * TIMES)
@pytest.mark.parametrize("kind", FILES)
def test_many_broken_files_are_refused_by_their_field(client: TestClient, kind: str) -> None:
    assert ask_about_broken(client, kind, 300 * TIMES) <= {200, 400}


@pytest.mark.parametrize("rate", ["100", "0", "0.1", "1e-9", "9.99", "10001", "1e9", "nan"])
def test_a_rate_that_no_ecg_has_is_refused(client: TestClient, rate: str) -> None:
    signals = "r.dat 16 1000(0)/mV 16 0 0 0 0 I\nr.dat 16 1000(0)/mV 16 0 0 0 0 II\n"
    task, patient = request("wfdb", f"r 2 {rate} 200\n{signals}".encode())
    answer = client.post(f"/v1/tasks/{task}/predict", json={"inputs": [patient]})
    if rate == "100":
        assert answer.status_code == 200, answer.text
    else:
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"].startswith("inputs[0].ecg.file")


HALF = "\ud800"
"""Half of a surrogate pair: JSON can spell it, UTF-8 cannot."""
CHAT = {
    "model": "tiny",
    "task": "Triage: say how soon a patient must be seen.",
    "user": "ward",
    "stop": ["."],
    "max_tokens": 2,
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "How soon?"}]},
    ],
}


def with_half_characters(value: Any) -> Iterator[Any]:
    """Give copies of a body, each with half a character in another of its texts and names."""
    if isinstance(value, str):
        yield value + HALF
    elif isinstance(value, list):
        for place, item in enumerate(value):
            for changed in with_half_characters(item):
                yield [*value[:place], changed, *value[place + 1 :]]
    elif isinstance(value, dict):
        for name, item in value.items():
            yield {n + HALF if n == name else n: v for n, v in value.items()}
            for changed in with_half_characters(item):
                yield value | {name: changed}


def post(client: TestClient, path: str, body: Any) -> Any:
    """Send JSON as ``json.dumps`` spells it, half characters too."""
    return client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


@pytest.mark.parametrize("task", ["", "lung_opacity", "ecg_abnormal", "mortality"])
def test_half_a_character_is_refused_wherever_it_stands(client: TestClient, task: str) -> None:
    path, body = "/v1/chat/completions", CHAT
    if task:
        path = f"/v1/tasks/{task}/predict"
        patient = client.get(f"/v1/samples/{task}-0").json()["input"]
        body = {"inputs": [patient | {"text": "A cough.", "question": "Is it so?"}]}
    assert post(client, path, body).status_code == 200
    for changed in with_half_characters(body):
        answer = post(client, path, changed)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"]
    assert post(client, path, body).status_code == 200
