"""The tiny recipe's model and settings, with changes."""

from typing import Any

import torch

from fedkim_ray.config import InjectionConfig
from fedkim_ray.data.demo.tiny import SPEC
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.injection.base_model import load_base
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.recipe_files import load_recipe


def tiny_model(
    injection: InjectionConfig, dtype: str, encoder_dropout: float = 0.1
) -> InjectedModel:
    torch.manual_seed(0)
    base = load_base("tiny-random", dtype)
    tasks = {task.id: task for task in TASKS}
    encoders = load_recipe("tiny", [f"encoders.dropout={encoder_dropout}"]).encoders
    model = InjectedModel(base, injection, encoders, SPEC, tasks)
    return model.to(getattr(torch, dtype))


def tiny_injection(stage: int, **changes: Any) -> InjectionConfig:
    values = load_recipe("tiny").injection.model_dump() | {"zero_stage": stage} | changes
    return InjectionConfig.model_validate(values)
