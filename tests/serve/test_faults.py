"""The service on a real Ray under load: scaling, a new bundle, a killed replica, overload."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from ray import serve as ray_serve

from serve.server import APP_NAME, RunningServer, run_server
from tests.serve.load import Load

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SCALING = {
    "max_replicas": 3,
    "target_ongoing_requests": 1.0,
    "upscale_delay_s": 1.0,
    "downscale_delay_s": 4.0,
    "look_back_period_s": 5.0,
}
URL = "/v1/tasks/lung_opacity/predict"
PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def server(ray_cluster: None, bundle_url: str, tiny_root: str) -> Iterator[RunningServer]:
    """The service with one to three replicas of the model."""
    with run_server(
        bundle_url,
        port=0,
        no_auth=True,
        samples=tiny_root,
        engine_cpus=0.3,
        engine_scaling=SCALING,
    ) as server:
        yield server


@pytest.fixture
def load(server: RunningServer) -> Load:
    """Eight clients that ask about one X-ray."""
    found = httpx.get(f"{server.url}/v1/samples/lung_opacity-0").json()["input"]
    return Load(f"{server.url}{URL}", {"inputs": [found]})


def running() -> int:
    """Replicas of the model that answer now."""
    engine = ray_serve.status().applications[APP_NAME].deployments["Engine"]
    return int(engine.replica_states.get("RUNNING", 0))


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until, f"not within {PATIENCE_S:g} s"
        time.sleep(0.2)


def engine_processes() -> list[psutil.Process]:
    """Processes of the model's replicas, by the title that Serve gives them."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if f"ServeReplica:{APP_NAME}:Engine" in " ".join(process.info["cmdline"] or ())
    ]


def test_replicas_come_with_the_load_and_go_with_it(load: Load) -> None:
    with load:
        wait_until(lambda: running() == 3)
        wait_until(lambda: len(load.told) > 100)
    wait_until(lambda: running() == 1)
    assert set(load.statuses) == {200}


def test_a_killed_replica_is_replaced_and_nobody_hangs(load: Load) -> None:
    with load:
        wait_until(lambda: len(load.told) > 50)
        victim = engine_processes()[0]
        victim.kill()
        victim.wait(10)
        after = len(load.told)
        wait_until(lambda: load.statuses[200] > after + 100)
    assert set(load.statuses) <= {200, 503}
    assert all(told.retry_after for told in load.told if told.status == 503)
    assert load.told[-1].status == 200


def test_a_new_bundle_rolls_in_and_back_without_a_failed_request(
    server: RunningServer,
    load: Load,
    tmp_path: Path,
    write_tiny_bundle: Callable[[Path, str], str],
) -> None:
    old = server.args.bundle
    new = write_tiny_bundle(tmp_path, "lora")
    with load:
        wait_until(lambda: load.versions != [])
        server.roll_out(new)
        wait_until(lambda: len(load.versions) == 2)
        first, second = load.versions
        server.roll_out(old)
        wait_until(lambda: load.told[-1].version == first)
    assert set(load.statuses) == {200}
    assert second != first
    assert httpx.get(f"{server.url}/readyz").json()["bundle_version"] == first


def test_overload_is_refused_at_once_and_says_when_to_come_back(
    server: RunningServer, load: Load
) -> None:
    load.num_clients = 24
    one = {"max_replicas": 1, "target_ongoing_requests": 8.0}
    server.roll_out(engine_scaling=one, max_ongoing_requests=1, max_queued_requests=2)
    with load:
        wait_until(lambda: load.statuses[503] > 20 and load.statuses[200] > 20)
    assert set(load.statuses) == {200, 503}
    refused = [told for told in load.told if told.status == 503]
    assert all(int(told.retry_after) >= 1 for told in refused)
    assert max(told.seconds for told in load.told) < 30
