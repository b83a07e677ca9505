"""vLLM inside Ray Serve: two replicas, each with the adapters that its questions need."""

import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.server import run_server

pytestmark = pytest.mark.vllm
TASKS = ("lung_opacity", "mortality")
TIMES = 5


def counted(web: httpx.Client) -> dict[str, float]:
    """Return hits and misses of all replicas' adapters."""
    counts: dict[str, float] = {}
    for family in text_string_to_metric_families(web.get("/metrics").text):
        for sample in family.samples:
            if sample.name == "ray_fedkim_adapter_requests_total":
                result = sample.labels["result"]
                counts[result] = counts.get(result, 0.0) + sample.value
    return counts


def test_a_question_goes_to_the_replica_that_holds_its_adapter(
    ray_cluster: None, bundle_url: str, tiny_root: str
) -> None:
    server = run_server(
        bundle_url,
        port=0,
        no_auth=True,
        samples=tiny_root,
        engine="vllm",
        engine_cpus=0.5,
        engine_scaling={"min_replicas": 2, "max_replicas": 2, "target_ongoing_requests": 8},
        vllm={"max_adapters": 4, "adapters_per_batch": 2},
        timeout_s=500,
    )
    with server, httpx.Client(base_url=server.url, timeout=60, trust_env=False) as web:
        for task in TASKS:
            asked = {"inputs": [web.get(f"/v1/samples/{task}-0").json()["input"]]}
            answers = []
            for _ in range(TIMES):
                answer = web.post(f"/v1/tasks/{task}/predict", json=asked).raise_for_status()
                answers.append(answer.json()["data"][0]["label_probabilities"])
                time.sleep(1)  # replicas tell of their adapters ten times a second
            for one in answers:
                assert one == pytest.approx(answers[0], abs=1e-4)
        wanted = {"hit": len(TASKS) * (TIMES - 1.0), "miss": float(len(TASKS))}
        deadline = time.monotonic() + 40  # the exporter hears of new values every ten seconds
        while sum(counted(web).values()) < sum(wanted.values()) and time.monotonic() < deadline:
            time.sleep(1)
        assert counted(web) == wanted
