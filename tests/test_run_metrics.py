"""Events in, metrics out."""

import math
import os
import re
import subprocess
import sys
import time

import httpx
import pytest
import torch

from fedkim_ray import telemetry
from fedkim_ray.errors import StorageError, TakenOverError
from fedkim_ray.injection.step_log import StepLog
from fedkim_ray.run_metrics import RunMetrics

EXPORTED_WITHIN_S = 30.0


def value(name: str, **labels: str) -> float:
    return telemetry.REGISTRY.get_sample_value(name, labels) or 0.0


def test_events_become_a_heartbeat_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_ray_is_up", lambda: False)
    names = ("fedkim_injection_steps_total", "fedkim_injection_step_seconds_count")
    before = [value(name) for name in names]
    now = [100.0]
    metrics = RunMetrics(client_timeout_s=30.0, clock=lambda: now[0])
    with metrics.going_on():
        metrics({"event": "injection_started"})
        for now[0] in (110.0, 112.0, 114.0):
            metrics({"event": "injection_step", "loss": 0.25})
        # Three steps have two times between them.
        assert [value(name) - old for name, old in zip(names, before, strict=True)] == [3.0, 2.0]
        assert value("fedkim_last_event_timestamp_seconds") == 114.0
        assert value("fedkim_quiet_limit_seconds") == 60.0
        assert value("fedkim_injection_step_loss") == 0.25
        log = StepLog()
        log.add(1, [("covid19", 0.9)], torch.tensor([[1.0, 0.0]]))
        log.add(2, [("covid19", 0.5)], torch.tensor([[0.25, 0.75]]))
        metrics.injected(log)
        assert value("fedkim_injection_loss", task="covid19") == 0.5
        assert value("fedkim_injection_expert_load", expert="1") == 0.75
        entropy = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
        assert value("fedkim_injection_routing_entropy_nats") == pytest.approx(entropy)
        assert value("fedkim_run_active") == 1.0
        old = value("fedkim_phase_seconds_total", phase="inject")
        metrics({"event": "injected", "seconds": 2.0})
        assert value("fedkim_phase_seconds_total", phase="inject") - old == 2.0
    assert value("fedkim_run_active") == 0.0
    metrics({"event": "bundle"})
    assert value("fedkim_run_active") == 0.0


@pytest.mark.parametrize(
    ("error", "failures"),
    [
        (StorageError("The disk is full.", "", ""), 1),
        (ValueError("Jane Doe"), 1),
        (TakenOverError("Another has it.", "", ""), 0),
        (KeyboardInterrupt(), 0),
    ],
)
def test_a_run_that_an_error_ends_is_counted_by_its_class(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, failures: int
) -> None:
    monkeypatch.setattr(telemetry, "_ray_is_up", lambda: False)
    counter, cause = "fedkim_run_failures_total", type(error).__name__
    before = value(counter, cause=cause)

    def drive() -> None:
        with RunMetrics(client_timeout_s=30.0).going_on():
            assert value("fedkim_run_active") == 1.0
            raise error

    with pytest.raises(type(error)):
        drive()
    assert value("fedkim_run_active") == 0.0
    assert value(counter, cause=cause) - before == failures


DRIVER = """
import ray
from fedkim_ray.run_metrics import RunMetrics

ray.init(log_to_driver=False)
try:
    with RunMetrics(client_timeout_s=30.0).going_on():
        raise TimeoutError
finally:
    ray.shutdown()
"""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_drivers_failure_outlives_it_in_rays_exporter() -> None:
    import ray

    [node] = ray.nodes()
    page = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    there = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    driver = [sys.executable, "-c", DRIVER]
    done = subprocess.run(driver, env=there, stderr=subprocess.PIPE, timeout=120, check=False)
    assert b"TimeoutError" in done.stderr
    failed = r'ray_fedkim_run_failures_total\{.*cause="TimeoutError".*\} 1\.0'
    ended = r"ray_fedkim_run_active\{.*\} 0\.0"
    deadline, told = time.monotonic() + EXPORTED_WITHIN_S, ""
    while not (re.search(failed, told) and re.search(ended, told)):
        assert time.monotonic() < deadline, told
        told = httpx.get(page, trust_env=False, timeout=60).text
