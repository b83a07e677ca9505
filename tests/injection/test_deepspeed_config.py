"""DeepSpeed's settings from the recipe's, and what no stage can do."""

from typing import Any

import pytest
import torch

from fedkim_ray.config import InjectionConfig, Recipe
from fedkim_ray.errors import EnvironmentProblemError
from fedkim_ray.injection.base_model import working_dtype
from fedkim_ray.injection.deepspeed_config import deepspeed_config
from fedkim_ray.recipe_files import load_recipe


def settings(dtype: str = "float32", **values: Any) -> dict[str, Any]:
    return deepspeed_config(InjectionConfig.model_validate(values), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_one_precision_is_on_and_only_float16_scales_its_loss(dtype: str) -> None:
    came = settings(dtype)
    assert came["bf16"]["enabled"] == (dtype == "bfloat16")
    assert came["fp16"]["enabled"] == (dtype == "float16")
    assert came["fp16"]["loss_scale"] == 0  # dynamic
    assert came["fp16"]["initial_scale_power"] == 16


@pytest.mark.parametrize(
    ("stage", "offload", "waiting"),
    [
        (0, "none", set()),
        (1, "optimizer", {"offload_optimizer"}),
        (2, "optimizer", {"offload_optimizer"}),
        (3, "parameters", {"offload_optimizer", "offload_param"}),
    ],
)
def test_what_waits_in_the_host_s_memory(stage: int, offload: str, waiting: set[str]) -> None:
    zero = settings(zero_stage=stage, offload=offload)["zero_optimization"]
    assert zero["stage"] == stage
    assert {name for name in zero if name.startswith("offload")} == waiting
    assert all(zero[name] == {"device": "cpu"} for name in waiting)


# 48 examples over 3 workers in 2 parts each: 8 at a time.
def test_a_batch_is_split_over_workers_and_parts() -> None:
    came = settings(batch_size=48, num_workers=3, gradient_accumulation=2, gradient_clip=0.5)
    assert came["train_batch_size"] == 48
    assert came["train_micro_batch_size_per_gpu"] == 8
    assert came["gradient_accumulation_steps"] == 2
    assert came["gradient_clipping"] == 0.5


@pytest.mark.parametrize(
    ("stage", "offload", "needed"), [(0, "optimizer", 1), (2, "parameters", 3)]
)
def test_a_stage_that_cannot_offload_is_refused(stage: int, offload: str, needed: int) -> None:
    with pytest.raises(ValueError, match=f"{offload}' needs zero_stage {needed} or more"):
        InjectionConfig.model_validate({"zero_stage": stage, "offload": offload})


def test_stage_3_refuses_a_quantised_base() -> None:
    values = load_recipe("tiny").model_dump(mode="json")
    values["base"]["quantization"] = "4bit"
    assert Recipe.model_validate(values).base.quantization == "4bit"
    values["injection"]["zero_stage"] = 3
    with pytest.raises(ValueError, match=r"'4bit' needs injection\.zero_stage 2 or less"):
        Recipe.model_validate(values)


def test_stage_0_refuses_float16() -> None:
    values = load_recipe("tiny").model_dump(mode="json")
    values["base"]["dtype"] = "float16"
    assert Recipe.model_validate(values).injection.zero_stage == 1
    values["injection"]["zero_stage"] = 0
    with pytest.raises(ValueError, match=r"float16 needs injection\.zero_stage 1 or more"):
        Recipe.model_validate(values)


def test_float16_is_refused_where_the_cpu_does_not_compute_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: False)
    assert working_dtype("float16", on_gpu=True) == "float16"
    with pytest.raises(EnvironmentProblemError, match=r"no instructions.*base.dtype auto"):
        working_dtype("float16", on_gpu=False)
