"""A round's log, in numbers for the head."""

import math

import pytest
import torch

from fedkim_ray.injection.step_log import StepLog


def test_a_step_tells_losses_by_task_and_how_its_examples_were_routed() -> None:
    log = StepLog()
    # One example on expert 0 alone, one on both alike: loads 3/4 and 1/4, entropy ln(2) / 2.
    alpha = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    log.add(7, [("a", 1.0), ("b", 3.0)], alpha)
    assert (log.steps, log.loss) == ([7], [2.0])
    assert log.loss_by_task == {"a": [(7, 1.0)], "b": [(7, 3.0)]}
    assert log.expert_load == [[0.75, 0.25]]
    assert log.entropy_nats == [pytest.approx(math.log(2) / 2)]


def test_without_routing_there_is_no_load() -> None:
    log = StepLog()
    log.add(0, [("a", 1.0)])
    assert log.expert_load == log.entropy_nats == []
