"""The HTTP app over a real engine: answers, errors in OpenAI's form, and what operators ask."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from serve.answers import NOTICE
from serve.api import create_app
from serve.auth import ApiKeys, KeyFacts, hash_key
from serve.gateway import Gateway
from serve.limits import Limits
from serve.transformers_engine import TransformersEngine


def sample(client: TestClient, sample_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/samples/{sample_id}").json()["input"]
    return found


def image_chat(client: TestClient, text: str, **more: object) -> dict[str, Any]:
    image = sample(client, "lung_opacity-0")["image"]
    parts = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": image}},
    ]
    return {"model": "tiny", "messages": [{"role": "user", "content": parts}], **more}


def events(body: str) -> Iterator[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line]
    assert lines[-1] == "[DONE]"
    yield from map(json.loads, lines[:-1])


# ---- predict ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task", ["lung_opacity", "ecg_abnormal", "mortality", "sepsis", "slake_vqa", "signal_noise"]
)
def test_every_sample_is_answered(client: TestClient, task: str) -> None:
    ids = [s["id"] for s in client.get("/v1/samples").json()["data"] if s["task"] == task]
    inputs = [sample(client, i) for i in ids]
    answer = client.post(f"/v1/tasks/{task}/predict", json={"inputs": inputs})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["task"], body["data_kind"], body["notice"]) == (task, "synthetic", NOTICE)
    assert [p["index"] for p in body["data"]] == list(range(len(ids)))
    for prediction in body["data"]:
        assert sum(prediction["expert_weights"]) == pytest.approx(1.0)
        assert prediction["bundle_version"] == body["bundle_version"]
        if probabilities := prediction["label_probabilities"]:
            assert sum(probabilities.values()) == pytest.approx(1.0)
            assert prediction["answer"] == max(probabilities, key=probabilities.__getitem__)


@pytest.mark.parametrize("task", ["lung_opacity", "slake_vqa"])
def test_too_long_a_question_is_named_by_its_place(client: TestClient, task: str) -> None:
    good = sample(client, f"{task}-0")
    long = good | {"question": "heart " * 1300}
    answer = client.post(f"/v1/tasks/{task}/predict", json={"inputs": [good, long]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "inputs[1].question")
    chat = client.post("/v1/chat/completions", json=image_chat(client, "heart " * 1300, task=task))
    assert chat.json()["error"]["param"] == "messages[0].content[0].text"


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"image": "data:image/png;base64,!"}, "inputs[0].image", "not valid base64"),
        ({"image": "http://10.0.0.1/x.png"}, "inputs[0].image", "fetches nothing"),
        ({"imag": ""}, "inputs[0].imag", "Extra inputs"),
        ({"ecg": {"leads": ["I"]}}, "inputs[0].ecg", "either `data` or `file`"),
        ({"series": {"lab": {"sodium": True}}}, "inputs[0].series.lab.sodium", "number"),
        ({"series": {"labs": {}}}, "inputs[0].series.labs", "pattern"),
        ({"series": {"lab": {"lab_0": 99.0}}}, "inputs[0].series.lab", "reads image"),
    ],
)
def test_a_bad_input_names_its_field(
    client: TestClient, change: dict[str, Any], field: str, problem: str
) -> None:
    answer = client.post("/v1/tasks/covid19/predict", json={"inputs": [change]})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == field
    assert problem in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused_by_place(client: TestClient, number: str) -> None:
    body = '{"inputs": [{"ecg": {"leads": ["I"], "sampling_rate_hz": 100, "data": [[0, %s]]}}]}'
    answer = client.post(
        "/v1/tasks/ecg_abnormal/predict",
        content=body % number,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "inputs[0].ecg.data[0][1]"


def test_too_many_inputs_and_unknown_tasks_are_refused(client: TestClient) -> None:
    many = client.post("/v1/tasks/covid19/predict", json={"inputs": [{}] * 65})
    assert (many.status_code, many.json()["error"]["param"]) == (400, "inputs")
    unknown = client.post("/v1/tasks/covid20/predict", json={"inputs": [{}]})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")


def test_a_body_of_very_many_objects_is_refused_before_it_is_parsed(client: TestClient) -> None:
    body = b'{"inputs": [' + b"{}," * 2**20 + b"{}]}"
    answer = client.post(
        "/v1/tasks/covid19/predict", content=body, headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff\xfe", b"null", b""])
def test_bodies_that_are_no_request_are_refused(client: TestClient, body: bytes) -> None:
    answer = client.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


# ---- chat ---------------------------------------------------------------------------------------


def test_a_chat_names_task_experts_and_probabilities(client: TestClient) -> None:
    body = image_chat(client, "Does this chest X-ray show COVID-19?")
    answer = client.post("/v1/chat/completions", json=body).json()
    facts = answer["fedkim"]
    assert (facts["task"], facts["task_inferred"]) == ("covid19", True)
    assert facts["modalities"] == ["image"]
    assert answer["choices"][0]["message"]["content"] in facts["label_probabilities"]
    assert answer["usage"]["completion_tokens"] == 1
    experts = client.get("/v1/experts").json()
    assert facts["expert_weights"] == pytest.approx(experts["tasks"]["covid19"], abs=1e-5)
    assert facts["bundle_version"] == experts["bundle_version"]


def test_chat_and_predict_agree(client: TestClient) -> None:
    body = image_chat(client, "Is it there?", task="lung_opacity")
    chat = client.post("/v1/chat/completions", json=body).json()
    patient = {"image": sample(client, "lung_opacity-0")["image"], "question": "Is it there?"}
    predict = client.post("/v1/tasks/lung_opacity/predict", json={"inputs": [patient]}).json()
    expected = predict["data"][0]["label_probabilities"]
    assert chat["fedkim"]["label_probabilities"] == pytest.approx(expected, abs=1e-4)
    assert not chat["fedkim"]["task_inferred"]


def test_text_before_the_question_goes_to_the_model_as_text(client: TestClient) -> None:
    body = image_chat(client, "Which organ?", task="slake_vqa")
    body["messages"].insert(0, {"role": "system", "content": "The patient coughs."})
    facts = client.post("/v1/chat/completions", json=body).json()["fedkim"]
    assert facts["modalities"] == ["image", "text"]


@pytest.mark.parametrize("task", ["", "Triage: say how soon a patient must be seen."])
@pytest.mark.parametrize("question", ["What is a normal heart rate?", "Is a pulse of 200 normal?"])
def test_a_question_in_words_alone_is_answered_whole_and_streamed(
    client: TestClient, task: str, question: str
) -> None:
    words = [{"role": "user", "content": question}]
    body = {"model": "tiny", "messages": words, "max_tokens": 8, "task": task}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    whole, facts = answer.json()["choices"][0]["message"]["content"], answer.json()["fedkim"]
    assert facts["modalities"] == ["text"]
    assert facts["task_inferred"] == (not task)
    assert sum(facts["expert_weights"]) == pytest.approx(1.0)
    stream = client.post("/v1/chat/completions", json=body | {"stream": True})
    pieces = [e["choices"][0]["delta"].get("content", "") for e in events(stream.text)]
    assert "".join(pieces) == whole


def test_an_ecg_and_a_series_in_a_chat(client: TestClient) -> None:
    for task, part in (("ecg_abnormal", "ecg"), ("mortality", "series")):
        value = sample(client, f"{task}-0")[part]
        content = [{"type": f"input_{part}", f"input_{part}": value}]
        body = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["fedkim"]["task"] == task


def test_a_stream_has_the_same_words_as_the_whole(client: TestClient) -> None:
    body = image_chat(client, "Which organ?", task="slake_vqa", max_tokens=12)
    whole = client.post("/v1/chat/completions", json=body).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    stream = client.post("/v1/chat/completions", json=body | options)
    assert stream.headers["content-type"].startswith("text/event-stream")
    *pieces, last, usage = events(stream.text)
    words = "".join(p["choices"][0]["delta"].get("content", "") for p in pieces)
    assert words == whole["choices"][0]["message"]["content"]
    assert len(pieces) > 2
    assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert last["fedkim"]["task"] == "slake_vqa"
    assert usage["usage"] == whole["usage"]


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"model": "gpt-4"}, 404, "model"),
        ({"task": "covid20"}, 404, "task"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
            400,
            "messages[0].content[0]",
        ),
        ({"tools": []}, 400, "tools"),
        ({"n": 2}, 400, "n"),
        ({"temperature": 9}, 400, "temperature"),
        ({"max_tokens": 100_000}, 400, "max_tokens"),
    ],
)
def test_a_bad_chat_names_its_field(
    client: TestClient, change: dict[str, Any], status: int, field: str
) -> None:
    answer = client.post("/v1/chat/completions", json=image_chat(client, "Why?") | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, field)


def test_a_second_image_is_refused_by_place(client: TestClient) -> None:
    body = image_chat(client, "Why?")
    body["messages"][0]["content"].append(body["messages"][0]["content"][1])
    error = client.post("/v1/chat/completions", json=body).json()["error"]
    assert error["param"] == "messages[0].content[2].image_url.url"
    assert "messages[0].content[1].image_url.url" in error["message"]


def test_a_sent_value_never_comes_back_in_an_error(client: TestClient) -> None:
    body = {"inputs": [{"series": {"vital": {"vital_0": 123456.75}}, "text": "Jane Doe"}]}
    answer = client.post("/v1/tasks/mortality/predict", json=body)
    assert answer.status_code == 400
    assert "123456" not in answer.text
    assert "Jane" not in answer.text


# ---- facts and operations -----------------------------------------------------------------------


def test_models_and_tasks_are_listed_with_units_and_bounds(client: TestClient) -> None:
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
    assert client.get("/v1/models/tiny").json()["object"] == "model"
    assert client.get("/v1/models/none").status_code == 404
    tasks = {t["id"]: t for t in client.get("/v1/tasks").json()["data"]}
    assert len(tasks) == 12
    assert tasks["ecg_abnormal"]["inputs"]["signal"]["leads"] == ["I", "II"]
    feature = tasks["mortality"]["inputs"]["lab"]["features"][0]
    assert feature == {"name": "lab_0", "unit": "1", "low": -10.0, "high": 10.0}


def test_health_readiness_and_the_page(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["status"] == "ready"
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cross-origin-resource-policy"] == "same-origin"
    assert client.get("/v1/tasks").headers["cache-control"] == "no-store"


def test_the_description_of_the_api_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    parts = [p for p in re.findall(r'(?:src|href)="([^"]+)"', page.text) if p != "data:,"]
    assert len(parts) == 4
    for part in parts:
        assert not part.startswith("/"), "the page would not work below a prefix"
        assert client.get(f"/{part}").status_code == 200, part


def test_no_other_site_may_read_answers(client: TestClient) -> None:
    asked = client.options(
        "/v1/tasks",
        headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
    )
    assert "access-control-allow-origin" not in asked.headers
    plain = client.post(
        "/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"}
    )
    assert plain.status_code == 400


def test_unknown_paths_get_an_error_in_the_same_form(client: TestClient) -> None:
    answer = client.get("/v1/nothing")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "404")


def test_metrics_count_requests_by_task_and_status(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other tests of the session may have started a Ray, which values would go to.
    monkeypatch.setattr("fedkim_ray.telemetry._ray_is_up", lambda: False)
    client.post("/v1/tasks/atelectasis/predict", json={"inputs": [{}]})
    client.post("/v1/tasks/atelectasis/predict", json={"inputs": [sample(client, "atelectasis-0")]})
    words = image_chat(client, "Which organ?", task="slake_vqa", max_tokens=3)
    assert client.post("/v1/chat/completions", json=words).status_code == 200
    text = client.get("/metrics").text
    counted = {
        (s.labels["task"], s.labels["status"]): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if s.name == "fedkim_requests_total"
    }
    assert counted["atelectasis", "200"] == 1
    assert counted["none", "400"] >= 1
    stages = ("request", "first_token", "decode", "encode", "queue", "prefill", "token")
    others = ("expert_weight", "batch_size", "routing_entropy_nats")
    for name in (*(f"{stage}_seconds" for stage in stages), *others):
        assert f"fedkim_{name}_count" in text
    for name in ("tokens_total", "rejections_total", "queue_length", "running_answers"):
        assert f"\nfedkim_{name}" in text


# ---- the door -----------------------------------------------------------------------------------


@pytest.fixture
def guarded(engine: TransformersEngine) -> Iterator[TestClient]:
    """The app with one key and small bounds."""
    keys = ApiKeys([("ward", KeyFacts(hash_key("secret")))])
    app = create_app(Gateway(engine, Limits(body_bytes=1000)), keys=keys)
    with TestClient(app) as client:
        yield client


def test_a_key_opens_the_door(guarded: TestClient) -> None:
    refused = guarded.get("/v1/models")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    wrong = {"Authorization": "Bearer guess"}
    assert guarded.get("/v1/models", headers=wrong).status_code == 401
    assert guarded.get("/metrics").status_code == 401
    assert guarded.get("/healthz").status_code == 200
    assert guarded.get("/docs").status_code == 200
    right = {"Authorization": "Bearer secret"}
    assert guarded.get("/v1/models", headers=right).status_code == 200
    metrics = guarded.get("/metrics", headers=right)
    assert (metrics.status_code, metrics.json()["error"]["code"]) == (403, "insufficient_scope")


def test_what_is_not_open_wants_a_key(guarded: TestClient) -> None:
    open_paths = ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/static/main.js")
    closed = ("/v1/tasks", "/v1/samples", "/v1/samples/x", "/metrics", "/metrics%0A", "/nothing")
    assert {path: guarded.get(path).status_code for path in open_paths + closed} == (
        dict.fromkeys(open_paths, 200) | dict.fromkeys(closed, 401)
    )
    for path, methods in guarded.get("/openapi.json").json()["paths"].items():
        for operation in methods.values():
            assert operation["security"] == ([] if path in open_paths else [{"key": []}])


def test_a_large_body_is_refused_announced_or_not(guarded: TestClient) -> None:
    right = {"Authorization": "Bearer secret", "content-type": "application/json"}
    announced = guarded.post("/v1/chat/completions", content=b" " * 2000, headers=right)
    pieces = iter([b" " * 600, b" " * 600])
    counted = guarded.post("/v1/chat/completions", content=pieces, headers=right)
    for answer in (announced, counted):
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
