"""What a worker needs, in numbers for the head, and the error of an allocator that could not."""

import pytest
import torch

from fedkim_ray.errors import EnvironmentProblemError
from fedkim_ray.injection.memory import memory_explained, state_bytes
from tests.injection.tiny import tiny_injection, tiny_model


# 2000 frozen bytes, 100 trained numbers of 2: 2200 of weights, 200 of gradients, 1200 of Adam.
@pytest.mark.parametrize(
    ("stage", "need"),
    [
        (0, 2200 + 200 + 1200),
        (1, 2200 + 200 + 600),
        (2, 2200 + 100 + 600),
        (3, 1100 + 100 + 600),
    ],
)
def test_each_stage_shards_more(stage: int, need: int) -> None:
    assert state_bytes(2000, 100, 2, stage, num_workers=2) == need


def test_running_out_of_memory_says_what_would_fit() -> None:
    injection = tiny_injection(1, batch_size=8, num_workers=2)
    model = tiny_model(injection, "float32")
    with (
        pytest.raises(EnvironmentProblemError, match=r"step of 4 examples.*ran out") as raised,
        memory_explained(model, injection),
    ):
        torch.empty(1 << 55, dtype=torch.uint8)
    assert "injection.gradient_accumulation=4" in raised.value.remedy
    assert "injection.zero_stage=3" in raised.value.remedy


def test_other_failures_are_left_alone() -> None:
    injection = tiny_injection(1)
    with (
        pytest.raises(RuntimeError, match="size of tensor"),
        memory_explained(tiny_model(injection, "float32"), injection),
    ):
        torch.ones(2) + torch.ones(3)
