"""The service on a real Ray: answers, metrics, replicas that come, go and die, bundles, overload.

All tests share one service whose model has one to three replicas, each of which takes four requests
at once; 24 more may wait.
"""

import base64
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest
import ray
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from ray import serve as ray_serve

from fedkim_ray.errors import EnvironmentProblemError
from serve.server import APP_NAME, RunningServer, run_server
from tests.serve.load import Load, wait_until

pytestmark = pytest.mark.ray
Question = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def server(ray_cluster: None, bundle_url: str, tiny_root: str) -> Iterator[RunningServer]:
    """The service on a real Ray; the load changes its number of replicas within seconds."""
    server = run_server(
        bundle_url,
        port=0,
        no_auth=True,
        samples=tiny_root,
        engine_cpus=0.3,
        engine_scaling={
            "max_replicas": 3,
            "target_ongoing_requests": 1.0,
            "upscale_delay_s": 1.0,
            "downscale_delay_s": 3.0,
            "look_back_period_s": 10.5,
        },
        max_ongoing_requests=4,
        max_queued_requests=24,
    )
    with server:
        yield server
    assert ray.is_initialized(), "a Ray that was there before is left alone"


@pytest.fixture
def web(server: RunningServer) -> Iterator[httpx.Client]:
    """A client of the service."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def questions(server: RunningServer) -> list[Question]:
    """Questions about an X-ray, an ECG and a stay, and one that is answered by words."""
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as web:
        return [
            (
                f"/v1/tasks/{task}/predict",
                {"inputs": [web.get(f"/v1/samples/{task}-0").json()["input"]], "max_tokens": 4},
            )
            for task in ("lung_opacity", "ecg_abnormal", "mortality", "slake_vqa")
        ]


def noise_image(side_px: int) -> str:
    """Return a square image of noise, which no PNG makes smaller, as a data: URL."""
    pixels = np.random.default_rng(0).integers(0, 256, (side_px, side_px, 3), np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "png")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def running(deployment: str) -> int:
    """Return how many replicas answer now, 0 while another is coming or going."""
    states = ray_serve.status().applications[APP_NAME].deployments[deployment].replica_states
    return states.get("RUNNING", 0) if set(states) <= {"RUNNING"} else 0


def processes(deployment: str) -> Iterator[psutil.Process]:
    """Give the processes of a deployment's replicas that answer, by the titles that they have."""
    title = f"ray::ServeReplica:{APP_NAME}:{deployment}"
    for process in psutil.process_iter(["cmdline"]):
        if " ".join(process.info["cmdline"] or ()).startswith(title):
            yield process


def rss_mib(*deployments: str) -> dict[int, float]:
    """Return the memory of the replicas that answer, by process id."""
    sizes = {}
    for name in deployments:
        for process in processes(name):
            with suppress(psutil.NoSuchProcess):  # the load may have ended a replica
                sizes[process.pid] = process.memory_info().rss / 2**20
    return sizes


def test_predict_chat_health_and_page_over_http(web: httpx.Client, server: RunningServer) -> None:
    assert web.get("/healthz").status_code == 200
    version = web.get("/readyz").json()["bundle_version"]
    assert "Not a medical device" in web.get("/").text
    for task in ("lung_opacity", "ecg_abnormal", "mortality", "slake_vqa"):
        found = web.get(f"/v1/samples/{task}-0").json()["input"]
        answer = web.post(f"/v1/tasks/{task}/predict", json={"inputs": [found, found]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["bundle_version"] == version
        first, second = answer.json()["data"]
        assert first["answer"] == second["answer"]
    image = web.get("/v1/samples/slake_vqa-0").json()["input"]["image"]
    parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "Why?"}]
    official = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    asked = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "max_tokens": 8}
    whole = official.chat.completions.create(**asked)  # type: ignore[call-overload]
    chunks = list(official.chat.completions.create(**asked, stream=True))  # type: ignore[call-overload]
    words = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert words == whole.choices[0].message.content
    assert chunks[-1].fedkim["task"] == whole.fedkim["task"] == "med_vqa"


def test_a_second_service_in_the_same_ray_is_refused_and_the_first_goes_on(
    web: httpx.Client, server: RunningServer
) -> None:
    with pytest.raises(EnvironmentProblemError, match=f"already, with '{APP_NAME}'"):
        run_server(server.args.bundle, port=0, no_auth=True)
    assert web.get("/readyz").status_code == 200


def test_an_error_of_a_deployment_keeps_its_status_and_its_words_stay_out_of_the_logs(
    web: httpx.Client,
) -> None:
    found = web.get("/v1/samples/lung_opacity-0").json()["input"]
    long = found | {"question": "heart " * 1300}
    answer = web.post("/v1/tasks/lung_opacity/predict", json={"inputs": [long]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "inputs[0].question"
    assert "tokens" in answer.json()["error"]["message"]
    named = {"inputs": [{"series": {"lab": {"Jane Doe 4711": 1.0}}}]}
    answer = web.post("/v1/tasks/mortality/predict", json=named)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "inputs[0].series.lab.Jane Doe 4711"
    node: Any = ray._private.worker._global_node
    logs = list((Path(node.get_session_dir_path()) / "logs/serve").rglob("*.log"))
    assert len(logs) >= 3
    for log in logs:
        words = log.read_text(errors="replace")
        assert "Jane Doe" not in words
        assert "Request failed" not in words


def test_metrics_show_every_replica_of_the_cluster(web: httpx.Client) -> None:
    found = web.get("/v1/samples/covid19-0").json()["input"]
    assert web.post("/v1/tasks/covid19/predict", json={"inputs": [found]}).status_code == 200
    wanted = {"ray_fedkim_requests_total", "ray_fedkim_batch_size_count"}  # of Api, of Engine
    deadline = time.monotonic() + 40  # the exporter hears of new values every ten seconds
    seen: set[str] = set()
    while not wanted <= seen and time.monotonic() < deadline:
        families = text_string_to_metric_families(web.get("/metrics").text)
        seen = {sample.name for family in families for sample in family.samples}
        time.sleep(1)
    assert wanted <= seen


def test_replicas_come_with_the_load(server: RunningServer, questions: Sequence[Question]) -> None:
    path, body = questions[-1]  # long answers: many are under way, and little is done for each
    with Load(server.url, [(path, body | {"max_tokens": 200})], num_clients=4) as load:
        wait_until(lambda: running("Engine") == 3)
        wait_until(load.more(8))
    assert load.failures() == []


def test_overload_is_refused_at_once_and_costs_no_memory(server: RunningServer) -> None:
    large = {"inputs": [{"question": "Is this noise?", "image": noise_image(side_px=400)}]}
    mib = len(json.dumps(large)) / 2**20  # 0.6: far more than what an allocator keeps for itself
    # One HTTP replica holds 56 at once and 24 in its queue: 16 of 96 are always refused.
    with Load(server.url, [("/v1/tasks/lung_opacity/predict", large)], num_clients=96) as load:
        wait_until(lambda: load.statuses[503] >= 200 and load.statuses[200] >= 50)
        begun, sizes = load.statuses[503], []
        for refused in (0, 400, 800):
            wait_until(lambda most=begun + refused: load.statuses[503] >= most)
            sizes.append(rss_mib("Api", "Engine"))
        wait_until(load.more(30))  # those who wait are answered all the while
    assert load.failures(503) == []
    assert all(int(told.retry_after) >= 1 for told in load.told if told.status == 503)
    stayed = set.intersection(*(set(size) for size in sizes))
    assert len(stayed) >= 2
    # What an allocator keeps, it keeps once; what is forgotten there grows with every refusal.
    grown = (max(b[p] - a[p] for p in stayed) for a, b in pairwise(sizes))
    assert min(grown) < 400 * mib / 4


def test_replicas_go_with_the_load(server: RunningServer, questions: Sequence[Question]) -> None:
    with Load(server.url, questions, num_clients=1, pause_s=0.2) as load:
        wait_until(lambda: running("Engine") == 1)
    assert load.failures() == []


def test_killed_replicas_are_replaced_and_nobody_hangs(
    server: RunningServer, questions: Sequence[Question]
) -> None:
    with Load(server.url, questions, num_clients=2, pause_s=0.05) as load:
        for deployments in (("Engine", "Inputs"), ("Api",)):
            wait_until(load.more(10))
            for victim in [next(processes(deployment)) for deployment in deployments]:
                victim.kill()
                victim.wait(10)
            wait_until(load.more(10))  # with one replica: by the one that took its place
    assert load.failures(503) == []
    refused = [told for told in load.told if told.status == 503]
    assert len(refused) <= 3 * load.num_clients  # what was under way, and nothing after it
    assert all(int(told.retry_after) >= 1 and "error" in told.text for told in refused)


def test_a_new_bundle_rolls_in_and_back_without_a_failed_request(
    server: RunningServer,
    questions: Sequence[Question],
    tmp_path: Path,
    write_tiny_bundle: Callable[..., str],
) -> None:
    old, new = server.args.bundle, write_tiny_bundle(tmp_path, "lora")
    with Load(server.url, questions, num_clients=2, pause_s=0.05) as load:
        wait_until(load.more(10))
        first = load.told[0].version
        server.roll_out(new)  # the old replica still answers what it was asked before
        wait_until(lambda: load.told[-1].version != first)
        rolled_in = load.told[-1].version
        server.roll_out(old)
        wait_until(lambda: load.told[-1].version != rolled_in)
        wait_until(load.more(10))
    assert load.failures() == []
    assert {told.version for told in load.told} == {first, rolled_in}
