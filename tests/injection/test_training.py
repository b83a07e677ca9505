"""The learning rate by hand, and the engine's masters under each stage (needs DeepSpeed)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fedkim_ray.config import InjectionConfig
from fedkim_ray.data.loading import SampleSet
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.step_log import StepLog
from fedkim_ray.injection.training import (
    InjectionState,
    build_engine,
    is_encoder,
    learning_rate_factor,
    read_state,
    train_steps,
)
from tests.injection.tiny import tiny_injection, tiny_model


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.5), (1, 1.0), (2, 1.0), (6, 0.5), (9, 0.125), (10, 0.0)]
)
def test_rate_rises_over_the_warm_up_then_falls_to_zero(step: int, factor: float) -> None:
    assert learning_rate_factor(step, total_steps=10, warmup_fraction=0.2) == factor


def run(
    model: InjectedModel,
    engine: Any,
    samples: dict[str, SampleSet],
    injection: InjectionConfig,
    first_step: int = 0,
) -> InjectionState:
    """Take the steps of one round and return the state after them."""
    train_steps(
        engine,
        model,
        samples,
        injection,
        seed=0,
        first_step=first_step,
        num_steps=injection.steps_per_round,
        total_steps=8,
        rank=0,
        log=StepLog(),
        on_step=lambda step, loss: None,
    )
    return read_state(engine, model, first_step + injection.steps_per_round)


FLOAT16 = torch.ops.mkldnn._is_mkldnn_fp16_supported()
"""Whether DeepSpeed takes float16 on this CPU."""


def half(stage: int) -> Any:
    """A case in float16."""
    unable = pytest.mark.skipif(not FLOAT16, reason="not on this CPU")
    return pytest.param(stage, "none", "float16", marks=unable)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "offload", "dtype"),
    [
        *((stage, "none", d) for stage in (0, 1, 2, 3) for d in ("float32", "bfloat16")),
        *(half(stage) for stage in (1, 2, 3)),
        *((stage, "optimizer", "bfloat16") for stage in (1, 2)),
        (3, "parameters", "bfloat16"),
    ],
)
def test_aggregated_encoders_really_enter_the_engine(
    stage: int, offload: str, dtype: str, samples: dict[str, SampleSet], one_process: None
) -> None:
    injection = tiny_injection(
        stage, offload=offload, lr=1e-9, encoder_lr=0.0, steps_per_round=1, batch_size=4
    )
    model = tiny_model(injection, dtype)
    fresh = {n: p.detach().float().clone() for n, p in model.trained_parameters().items()}
    constants = {n: torch.full_like(p, 0.1) if is_encoder(n) else p for n, p in fresh.items()}
    start = InjectionState(params=constants, moments={}, step=0)
    after = run(model, build_engine(model, start, injection, dtype), samples, injection)
    for name, value in after.params.items():
        if is_encoder(name):  # 0.1 is not a bfloat16: only the float32 masters can hold it
            assert torch.equal(value, constants[name]), name
    if stage < 3:  # a shard of stage 3 is gathered only inside a forward pass
        encoders = model.light.named_parameters()
        assert all(bool((p.float() - 0.1).abs().max() < 1e-3) for _, p in encoders)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "dtype", "offload"),
    [
        (1, "float32", "none"),
        (2, "bfloat16", "none"),
        (3, "bfloat16", "none"),
        (1, "bfloat16", "optimizer"),
    ],
)
def test_two_rounds_of_four_steps_equal_one_round_of_eight(
    stage: int, dtype: str, offload: str, samples: dict[str, SampleSet], one_process: None
) -> None:
    # Encoders rest, because their moments restart each round on purpose.
    fixed = {"encoder_lr": 0.0, "batch_size": 4, "offload": offload}
    whole = tiny_injection(stage, steps_per_round=8, **fixed)
    half = tiny_injection(stage, steps_per_round=4, **fixed)
    model = tiny_model(whole, dtype)
    expected = run(model, build_engine(model, None, whole, dtype), samples, whole)
    model = tiny_model(half, dtype)
    middle = run(model, build_engine(model, None, half, dtype), samples, half)
    model = tiny_model(half, dtype)  # a new process would start from files, as this does
    ended = run(model, build_engine(model, middle, half, dtype), samples, half, first_step=4)
    assert ended.step == 8
    assert equal(dict(ended.params), dict(expected.params))
    assert equal(dict(ended.moments), dict(expected.moments))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_offloading_changes_where_numbers_wait_and_no_number(
    stage: int, samples: dict[str, SampleSet], one_process: None
) -> None:
    ended = []
    for offload in ("none", "optimizer" if stage < 3 else "parameters"):
        injection = tiny_injection(stage, steps_per_round=3, batch_size=4, offload=offload)
        model = tiny_model(injection, "float32")
        ended.append(
            run(model, build_engine(model, None, injection, "float32"), samples, injection)
        )
    # Attention's key biases have no gradient but rounding, which Adam scales up to whole steps.
    torch.testing.assert_close(dict(ended[1].params), dict(ended[0].params), rtol=0.0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_parts_of_a_batch_and_recomputed_activations_change_no_step(
    stage: int, samples: dict[str, SampleSet], one_process: None
) -> None:
    ended = []
    for changes in ({}, {"gradient_accumulation": 2}, {"gradient_checkpointing": True}):
        injection = tiny_injection(stage, steps_per_round=2, batch_size=4, **changes)
        m3oe = injection.m3oe.model_copy(update={"dropout": 0.0})  # parts draw it differently
        injection = injection.model_copy(update={"m3oe": m3oe})
        model = tiny_model(injection, "float32", encoder_dropout=0.0)
        engine = build_engine(model, None, injection, "float32")
        ended.append(dict(run(model, engine, samples, injection).params))
    for other in ended[1:]:
        torch.testing.assert_close(other, ended[0], rtol=0.0, atol=1e-5)


# Adam's m after its first step is (1 - 0.9) times the gradient: clipped to 0.01, its norm is 0.001.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "dtype"), [(0, "float32"), (1, "bfloat16"), (2, "float32"), (3, "bfloat16")]
)
def test_a_gradient_is_clipped_to_its_norm_and_keeps_its_direction(
    stage: int, dtype: str, samples: dict[str, SampleSet], one_process: None
) -> None:
    def first_moment(clip: float) -> Tensor:
        injection = tiny_injection(stage, gradient_clip=clip, steps_per_round=1, batch_size=4)
        model = tiny_model(injection, dtype)
        engine = build_engine(model, None, injection, dtype)
        run(model, engine, samples, injection)
        moments = read_state(engine, model, step=1, steps_in_round=1).moments
        return torch.cat([m.flatten() for n, m in moments.items() if n.startswith("exp_avg/")])

    free, clipped = first_moment(1e6), first_moment(0.01)
    assert free.norm() > 0.001
    assert clipped.norm().item() == pytest.approx(0.001, rel=1e-3)
    torch.testing.assert_close(clipped, free * 0.001 / free.norm(), rtol=1e-3, atol=1e-8)
