"""Events in, metrics out."""

import math

import pytest
import torch

from fedkim_ray import telemetry
from fedkim_ray.injection.step_log import StepLog
from fedkim_ray.run_metrics import RunMetrics


def value(name: str, **labels: str) -> float:
    return telemetry.REGISTRY.get_sample_value(name, labels) or 0.0


def test_events_become_a_heartbeat_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_ray_is_up", lambda: False)
    names = ("fedkim_injection_steps_total", "fedkim_injection_step_seconds_count")
    before = [value(name) for name in names]
    now = [100.0]
    metrics = RunMetrics(client_timeout_s=30.0, clock=lambda: now[0])
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
    metrics.close()
    metrics({"event": "bundle"})
    assert value("fedkim_run_active") == 0.0
