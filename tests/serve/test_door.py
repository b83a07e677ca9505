"""What stands before every question: quota, audit log, host names."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message, Receive, Scope, Send

from fedkim_ray.metric_names import REQUESTS, Metric
from serve.api import create_app
from serve.audit import HASH_KEY, Audit, AuditLog
from serve.auth import ApiKeys, KeyFacts, hash_key
from serve.engine import EngineRequest, Piece
from serve.errors import NotReadyError, RateLimitedError
from serve.gateway import Gateway
from serve.limits import Limits
from serve.preparing import LocalPreparer
from serve.quota import MovingWindow, QuotaCheck, charge
from serve.transformers_engine import TransformersEngine

PREDICT = "/v1/tasks/atelectasis/predict"
TWO_KEYS = ApiKeys((name, KeyFacts(hash_key(name))) for name in ("ward", "lab"))


def as_(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


def test_a_key_asks_as_often_as_it_may_and_others_are_not_hindered(
    engine: TransformersEngine,
) -> None:
    # One counter for two copies of the app, as for the replicas of a service.
    quota = MovingWindow("2/minute")
    apps = [create_app(Gateway(engine), keys=TWO_KEYS, quota=quota) for _ in range(2)]
    with TestClient(apps[0]) as one, TestClient(apps[1]) as two:
        asked = [web.post(PREDICT, json={}, headers=as_("ward")) for web in (one, two, one)]
        assert [a.status_code for a in asked] == [400, 400, 429]
        assert asked[2].json()["error"]["code"] == "rate_limit_exceeded"
        assert 0 < int(asked[2].headers["retry-after"]) <= 61
        assert two.post(PREDICT, json={}, headers=as_("lab")).status_code == 400
        assert one.get("/v1/tasks", headers=as_("ward")).status_code == 200


class BrokenQuota:
    """A counter that is gone."""

    async def take(self, key: str, num: int = 1) -> float:
        """Fail; see ``Quota``."""
        raise ConnectionError(key)


def test_each_patient_counts_as_a_question(engine: TransformersEngine) -> None:
    app = create_app(Gateway(engine), keys=TWO_KEYS, quota=MovingWindow("5/minute"))
    with TestClient(app) as web:
        # 1 + 3 of 5 are used up. Of 2 the first is the fifth and the second one too many.
        sizes = (1, 3, 2, 1)
        asked = [
            web.post(PREDICT, json={"inputs": [{}] * size}, headers=as_("ward")) for size in sizes
        ]
        assert [a.status_code for a in asked] == [400, 400, 429, 429]
        many = web.post(PREDICT, json={"inputs": [{}] * 6}, headers=as_("lab"))
        assert (many.status_code, many.json()["error"]["param"]) == (400, "inputs")
        assert "fewer patients" in many.json()["error"]["message"]


def test_patients_of_a_request_that_nothing_could_answer_are_not_counted(
    engine: TransformersEngine,
) -> None:
    gateway = Gateway(engine, Limits(inputs=4))
    with TestClient(create_app(gateway, keys=TWO_KEYS, quota=MovingWindow("5/minute"))) as web:
        five = {"inputs": [{}] * 5}
        unknown = web.post("/v1/tasks/gout/predict", json=five, headers=as_("ward"))
        assert unknown.status_code == 404
        many = web.post(PREDICT, json=five, headers=as_("ward"))
        assert (many.status_code, many.json()["error"]["param"]) == (400, "inputs")
        # 1 + 1 of 5 are used up.
        three = web.post(PREDICT, json={"inputs": [{}] * 3}, headers=as_("ward"))
        assert three.status_code == 400


@pytest.mark.parametrize("patients", [2, 5])
def test_who_waits_as_long_as_told_is_answered(
    monkeypatch: pytest.MonkeyPatch, patients: int
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)

    async def retries_until_answered() -> int:
        nonlocal now
        quota, scope = MovingWindow("5/minute"), {"type": "http"}
        for _ in range(4):  # places are free again at 1060, 1070, 1080 and 1090
            await charge(quota, scope, 1)
            now += 10
        for retries in range(9):
            try:
                await charge(quota, scope, 1)
                await charge(quota, scope, patients)
            except RateLimitedError as error:
                now += error.retry_after_s or 0
            else:
                return retries
        return 9

    # The first attempt takes the fifth place and has none for the other patients.
    assert asyncio.run(retries_until_answered()) == 1
    assert now == 1040 + 61


def test_a_body_that_is_not_understood_counts_as_one_question(engine: TransformersEngine) -> None:
    app = create_app(Gateway(engine), keys=TWO_KEYS, quota=MovingWindow("2/minute"))
    with TestClient(app) as web:
        asked = [web.post(PREDICT, content=b"{", headers=as_("ward")) for _ in range(3)]
        assert [a.status_code for a in asked] == [400, 400, 429]


def test_more_patients_than_a_key_may_ask_about_at_once_count_as_one_question(
    engine: TransformersEngine,
) -> None:
    app = create_app(Gateway(engine), keys=TWO_KEYS, quota=MovingWindow("2/minute"))
    with TestClient(app) as web:
        body = {"inputs": [{}] * 3}
        asked = [web.post(PREDICT, json=body, headers=as_("ward")) for _ in range(3)]
        assert [a.status_code for a in asked] == [400, 400, 429]


def test_a_request_that_is_given_up_has_been_counted() -> None:
    quota = MovingWindow("1/minute")
    statuses = []

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(60)

    async def unread() -> Message:
        raise AssertionError("the body is read further inside")

    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def ask() -> None:
        scope = {"type": "http", "method": "POST", "path": PREDICT, "headers": []}
        async with asyncio.timeout(0.01):
            await QuotaCheck(endless, quota)(scope, unread, told)

    async def twice() -> None:
        with pytest.raises(TimeoutError):
            await ask()
        await ask()

    asyncio.run(twice())
    assert statuses == [429]


def test_a_counter_that_is_gone_stops_nobody(engine: TransformersEngine) -> None:
    with TestClient(create_app(Gateway(engine), quota=BrokenQuota())) as web:
        assert web.post(PREDICT, json={}).status_code == 400


def lines(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("audit-*.jsonl")
    assert file.stat().st_mode & 0o077 == 0
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_audit_log_tells_who_asked_what_and_nothing_of_the_patient(
    engine: TransformersEngine, client: TestClient, tmp_path: Path
) -> None:
    audit = AuditLog(str(tmp_path))
    body = {"inputs": [client.get("/v1/samples/atelectasis-0").json()["input"]]}
    sent = json.dumps(body).encode()
    with TestClient(create_app(Gateway(engine), keys=TWO_KEYS, audit=audit)) as web:
        json_type = {"content-type": "application/json"}
        answer = web.post(PREDICT, content=sent, headers=as_("ward") | json_type)
        web.post(PREDICT, json={"inputs": [{"text": "Jane Doe"}]}, headers=as_("lab"))
        web.get("/v1/tasks", headers=as_("lab"))
    first, second = lines(tmp_path)
    assert (first["key"], first["task"], first["status"]) == ("ward", "atelectasis", 200)
    assert first["bundle_version"] == answer.json()["bundle_version"]
    key = (tmp_path / HASH_KEY).read_bytes()
    assert first["input_hmac_sha256"] == hmac.new(key, sent, hashlib.sha256).hexdigest()
    assert (second["key"], second["task"], second["status"]) == ("lab", "atelectasis", 400)
    assert "Jane" not in json.dumps(second)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The labels of each request that the metrics count."""
    labels: list[dict[str, Any]] = []

    def inc(metric: Metric, amount: float = 1.0, **own: Any) -> None:
        if metric == REQUESTS:
            labels.append(own)

    monkeypatch.setattr("fedkim_ray.telemetry.inc", inc)
    return labels


def test_below_a_prefix_keys_quota_log_and_metrics_hold_as_well(
    engine: TransformersEngine, tmp_path: Path, counted: list[dict[str, Any]]
) -> None:
    # As Serve hands a request on for an app with `route_prefix: /fedkim`.
    quota, audit = MovingWindow("1/minute"), AuditLog(str(tmp_path))
    app = create_app(Gateway(engine), keys=TWO_KEYS, quota=quota, audit=audit)
    with TestClient(app, root_path="/fedkim") as web:
        headers: list[dict[str, str]] = [{}, as_("ward"), as_("ward")]
        asked = [web.post(f"/fedkim{PREDICT}", json={}, headers=own) for own in headers]
        assert [a.status_code for a in asked] == [401, 400, 429]
        assert {a.headers["cache-control"] for a in asked} == {"no-store"}
        assert web.get("/fedkim/metrics").status_code == 401
        assert web.get("/fedkim/healthz").status_code == 200
        assert web.get("/fedkim").url.path == "/fedkim/"
    assert [labels["status"] for labels in counted] == [401, 400, 429]
    told = [(line["key"], line["status"]) for line in lines(tmp_path)]
    assert told == [(None, 401), ("ward", 400), ("ward", 429)]


def test_of_a_body_that_was_not_read_the_log_has_no_hash(
    engine: TransformersEngine, tmp_path: Path
) -> None:
    gateway = Gateway(engine, Limits(body_bytes=20))
    with TestClient(create_app(gateway, audit=AuditLog(str(tmp_path)))) as web:
        web.post(PREDICT, content=b"x" * 21)  # announced as too large, and so never read
        web.post(PREDICT, content=b"x" * 20)
    large, small = lines(tmp_path)
    assert (large["status"], large["input_hmac_sha256"]) == (413, None)
    assert (small["status"], len(small["input_hmac_sha256"])) == (400, 64)


def test_a_failure_inside_is_written_down_as_it_is_answered(
    engine: TransformersEngine,
    client: TestClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(*_: object) -> None:
        raise ValueError("the decoder's own")

    monkeypatch.setattr(LocalPreparer, "_decode", failing)
    body = {"inputs": [client.get("/v1/samples/atelectasis-0").json()["input"]]}
    with TestClient(create_app(Gateway(engine), audit=AuditLog(str(tmp_path)))) as web:
        assert web.post(PREDICT, json=body).status_code == 500
    assert [line["status"] for line in lines(tmp_path)] == [500]


def test_a_question_that_nobody_waits_for_is_written_down_as_499(tmp_path: Path) -> None:
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(60)

    async def nothing() -> Message:
        return {"type": "http.disconnect"}

    async def unheard(message: Message) -> None:
        raise AssertionError(message)

    async def leave() -> None:
        scope = {"type": "http", "method": "POST", "path": PREDICT}
        async with asyncio.timeout(0.01):
            await Audit(endless, AuditLog(str(tmp_path)))(scope, nothing, unheard)

    with pytest.raises(TimeoutError):
        asyncio.run(leave())
    assert [line["status"] for line in lines(tmp_path)] == [499]


class RolledIn:
    """An engine that another bundle has just taken the place of, after it described itself."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine = engine
        self.describe = engine.describe

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Piece, None]:
        """Answer as the new bundle; see ``Engine``."""
        async for piece in self.engine.generate(request):
            yield replace(piece, origin=replace(piece.origin, bundle_version="new"))


def test_a_stream_counts_for_the_bundle_that_answered_it(
    engine: TransformersEngine,
    client: TestClient,
    tmp_path: Path,
    counted: list[dict[str, Any]],
) -> None:
    image = client.get("/v1/samples/slake_vqa-0").json()["input"]["image"]
    parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "Why?"}]
    body = {"model": "tiny", "task": "slake_vqa", "stream": True, "max_tokens": 2}
    body |= {"messages": [{"role": "user", "content": parts}]}
    gateway = Gateway(RolledIn(engine))  # type: ignore[arg-type]
    with TestClient(create_app(gateway, audit=AuditLog(str(tmp_path)))) as web:
        assert web.post("/v1/chat/completions", json=body).status_code == 200
    assert [labels["bundle_version"] for labels in counted] == ["new"]
    assert [line["bundle_version"] for line in lines(tmp_path)] == ["new"]


class Breaking:
    """An engine whose replica is lost after the first words."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine = engine
        self.describe = engine.describe

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Piece, None]:
        """Begin, and break off; see ``Engine``."""
        async for piece in self.engine.generate(request):
            yield replace(piece, finish_reason=None)
            raise NotReadyError("Lost.", "There.", "Ask again.")


def values(web: TestClient, name: str) -> dict[tuple[str, ...], float]:
    """Return a counter by the values of its labels."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(web.get("/metrics").text)
        for sample in family.samples
        if sample.name == name
    }


def test_a_stream_that_breaks_off_is_counted_as_a_failure(
    engine: TransformersEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedkim_ray.telemetry._ray_is_up", lambda: False)
    body = {"model": "tiny", "stream": True, "task": "Triage: say how soon."}
    body |= {"messages": [{"role": "user", "content": "How soon?"}]}
    gateway = Gateway(Breaking(engine))  # type: ignore[arg-type]
    with TestClient(create_app(gateway, audit=AuditLog(str(tmp_path)))) as web:
        causes = values(web, "fedkim_rejections_total")
        requests = values(web, "fedkim_requests_total")
        answer = web.post("/v1/chat/completions", json=body)
        assert (answer.status_code, "[DONE]" in answer.text) == (200, False)
        after = values(web, "fedkim_rejections_total")
        assert after["not_ready",] == causes.get(("not_ready",), 0.0) + 1
        new = values(web, "fedkim_requests_total").items() - requests.items()
    ((labels, _),) = new
    assert "503" in labels
    assert [line["status"] for line in lines(tmp_path)] == [503]


def test_a_second_process_keeps_the_logs_key(tmp_path: Path) -> None:
    first, second = AuditLog(str(tmp_path)), AuditLog(str(tmp_path))
    assert first.key == second.key
    assert first.file != second.file
    assert [file.name for file in tmp_path.iterdir()] == [HASH_KEY]


@pytest.mark.parametrize(("host", "status"), [("localhost:8000", 200), ("evil.example", 400)])
def test_a_page_of_another_name_does_not_reach_a_service_without_keys(
    engine: TransformersEngine, host: str, status: int
) -> None:
    with TestClient(create_app(Gateway(engine), hosts=("localhost", "127.0.0.1"))) as web:
        assert web.get("/v1/tasks", headers={"host": host}).status_code == status
