"""Which experts answer which task, and which trained task an unseen one resembles.

Routing depends on descriptions alone, so it is known before any question is asked. Four trained
tasks are four points that the router learned from; all else is extrapolation.
"""

from collections.abc import Collection, Mapping, Sequence

import torch

from fedkim_ray.data.modalities import MODALITIES
from fedkim_ray.evaluation.results import Routing
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.router import routing_entropy
from fedkim_ray.types import Modality, Task, TaskId


@torch.inference_mode()
def routing_of(
    model: InjectedModel, tasks: Sequence[Task], trained_ids: Collection[TaskId]
) -> dict[TaskId, Routing]:
    """Return the expert weights of each task; empty for a model without a router.

    Args:
        model: With the tasks that it knows.
        tasks: Those to route.
        trained_ids: Tasks that the model's run trained: the others are held against these.
    """
    tasks = [task for task in tasks if _carried(model, task)]
    if model.router is None or not tasks:
        return {}
    known = model.tasks.values()
    trained = [task for task in known if task.id in trained_ids and _carried(model, task)]
    every = list({task.id: task for task in (*tasks, *trained)}.values())
    keys = [(task.id, _carried(model, task)) for task in every]
    weights = dict(zip([t.id for t in every], model.route(keys).cpu(), strict=True))
    return {task.id: _routing(model, task, trained, weights) for task in tasks}


def _routing(
    model: InjectedModel,
    task: Task,
    trained: Sequence[Task],
    weights: Mapping[TaskId, torch.Tensor],
) -> Routing:
    alpha_P = weights[task.id]
    distance, nearest = None, None
    if trained and task not in trained:
        distance, nearest = min((_total_variation(alpha_P, weights[t.id]), t.id) for t in trained)
    return Routing(
        modalities=_carried(model, task),
        expert_weights=tuple(alpha_P.tolist()),
        entropy_nats=float(routing_entropy(alpha_P[None])[0]),
        nearest_trained=nearest,
        distance=distance,
        by_modality=_by_modality(model, task),
    )


def _by_modality(model: InjectedModel, task: Task) -> dict[Modality, tuple[float, ...]]:
    """Return the weights for each modality alone; empty for a task that has but one."""
    carried = _carried(model, task)
    if len(carried) < 2:
        return {}
    alpha_MP = model.route([(task.id, (modality,)) for modality in carried]).cpu().tolist()
    return {m: tuple(alpha_P) for m, alpha_P in zip(carried, alpha_MP, strict=True)}


def _carried(model: InjectedModel, task: Task) -> tuple[Modality, ...]:
    """Return the task's modalities that the bundle's data carry, in the fixed order."""
    carried = {*model.light.spec.modalities, "text"} & set(task.modalities)
    return tuple(m for m in MODALITIES if m in carried)


def _total_variation(a_P: torch.Tensor, b_P: torch.Tensor) -> float:
    return float((a_P - b_P).abs().sum() / 2)
