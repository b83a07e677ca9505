"""Losses and routing of one round, step by step: ``log.json`` of a published round."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fedkim_ray.injection.router import routing_entropy
from fedkim_ray.types import TaskId


@dataclass(slots=True)
class StepLog:
    """What a round's reports are made from; every list has one entry a step."""

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    loss_by_task: dict[TaskId, list[tuple[int, float]]] = field(default_factory=dict)
    """Pairs of step and loss, of the steps that drew the task."""
    entropy_nats: list[float] = field(default_factory=list)
    """Mean entropy of the examples' expert weights; log(P) is uniform. Empty without routing."""
    expert_load: list[list[float]] = field(default_factory=list)
    """Mean weight of each expert over the examples; P numbers that sum to 1."""

    def add(
        self,
        step: int,
        losses: Sequence[tuple[TaskId, float]],
        alpha_BP: Tensor | None = None,
    ) -> None:
        """Record one step.

        Args:
            step: Counted over all rounds.
            losses: Task and loss of each example.
            alpha_BP: Expert weights of each example, float32; None without routing.
        """
        self.steps.append(step)
        self.loss.append(sum(x for _, x in losses) / len(losses))
        for task in sorted({t for t, _ in losses}):
            mine = [x for t, x in losses if t == task]
            self.loss_by_task.setdefault(task, []).append((step, sum(mine) / len(mine)))
        if alpha_BP is not None:
            self.entropy_nats.append(float(routing_entropy(alpha_BP).mean()))
            self.expert_load.append(alpha_BP.mean(0).tolist())
