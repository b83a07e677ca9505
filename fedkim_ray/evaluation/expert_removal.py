"""What happens to a task when an expert is taken away.

    alpha'_q = alpha_q / (1 - alpha_p)    for q != p, and alpha'_p = 0

The same questions are asked again without expert p, and the metric's change is paired by subject.
A large weight says that an expert is used; only this says that it matters.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from torch import Tensor

from fedkim_ray.config import EvaluationConfig
from fedkim_ray.data.loading import SampleSet
from fedkim_ray.errors import RecipeError
from fedkim_ray.evaluation.compare import compare
from fedkim_ray.evaluation.results import ExpertRemoval
from fedkim_ray.evaluation.scoring import score_samples
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.types import TaskId

ROUNDING = 1e-6
"""Weight of the other experts below which there is nothing left to share out."""


def removal_effects(
    model: InjectedModel,
    samples: Mapping[TaskId, SampleSet],
    answers: pa.Table,
    config: EvaluationConfig,
    on_expert: Callable[[int, int], None] | None = None,
) -> tuple[ExpertRemoval, ...]:
    """Ask all yes/no questions once more without each expert in turn.

    Args:
        model: With a router.
        samples: Questions by task; generated answers are left out.
        answers: What the whole model answered to them by likelihood.
        config: How questions are asked and resampled.
        on_expert: Told experts done and experts in all.

    Raises:
        RecipeError: the model has no experts to take away, or but one.
    """
    num_experts = num_routed_experts(model)
    asked = {t: rows for t, rows in samples.items() if model.tasks[t].kind == "yes_no"}
    effects = []
    for expert in range(num_experts if asked else 0):
        with without_expert(model, expert):
            without = score_samples(
                model,
                asked,
                batch_size=config.batch_size,
                max_new_tokens=config.max_new_tokens,
            )
        for d in compare(without, answers, config.bootstrap_samples):
            effects.append(
                ExpertRemoval(
                    task=d.task,
                    expert=expert,
                    change=d.difference,
                    num_subjects=d.num_subjects,
                )
            )
        if on_expert:
            on_expert(expert + 1, num_experts)
    return tuple(effects)


@contextmanager
def without_expert(model: InjectedModel, expert: int) -> Iterator[None]:
    """Give an expert's weight to the others, in proportion, for the length of a block."""

    def take_away(_router: Any, _texts: Any, alpha_TP: Tensor) -> Tensor:
        left_TP = alpha_TP.clone()
        left_TP[:, expert] = 0.0
        rest_T1 = left_TP.sum(-1, keepdim=True)
        even_TP = left_TP.new_full(left_TP.shape, 1.0 / (left_TP.shape[1] - 1))
        even_TP[:, expert] = 0.0
        return (left_TP / rest_T1.clamp(min=ROUNDING)).where(rest_T1 > ROUNDING, even_TP)

    assert model.router is not None
    hook = model.router.register_forward_hook(take_away)
    model.forget_routes()
    try:
        yield
    finally:
        hook.remove()
        model.forget_routes()


def num_routed_experts(model: InjectedModel) -> int:
    """Return P.

    Raises:
        RecipeError: there is no expert to take away, or no other that stays.
    """
    num_experts = model.gate.num_experts if model.gate is not None else 0
    if model.router is None or num_experts < 2:
        raise RecipeError(
            f"The bundle has {num_experts} routed experts.",
            "Taking one away needs another that stays.",
            "Use a bundle of a variant with routing, such as fedkim.",
        )
    return num_experts
