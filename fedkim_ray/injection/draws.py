"""Which examples enter which injection step: a pure function of seed and step.

Tasks are mixed in every batch by weight; within a task, examples come in shuffled epochs. Because
the order depends on nothing else, a resumed run draws what the uninterrupted run would have
drawn, whatever the number of workers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from fedkim_ray.types import TaskId


@dataclass(frozen=True, slots=True)
class Draw:
    """One example of a batch."""

    task: TaskId
    index: int
    """Row of the task's public sample set."""


def draw_batches(
    sizes: Mapping[TaskId, int],
    weights: Mapping[TaskId, float],
    batch_size: int,
    seed: int,
    first_step: int = 0,
) -> Iterator[list[Draw]]:
    """Yield the batches from ``first_step`` on, without end.

    Args:
        sizes: Public examples of each task.
        weights: How often a task is drawn; 1 where absent.
        batch_size: Examples a batch, over all workers.
        seed: Seed of the whole run.
        first_step: Steps already taken, over all rounds.
    """
    cursors = {
        task: _Cursor(size, seed, number) for number, (task, size) in enumerate(sizes.items())
    }
    credit = dict.fromkeys(sizes, 0.0)
    share = {task: weights.get(task, 1.0) for task in sizes}
    total = sum(share.values())
    step = 0
    while True:
        batch = []
        for _ in range(batch_size):
            # The task that is furthest behind its share is next: exact shares, no clumps.
            for task in credit:
                credit[task] += share[task] / total
            task = max(credit, key=lambda t: credit[t])
            credit[task] -= 1.0
            batch.append(Draw(task, cursors[task].next()))
        if step >= first_step:
            yield batch
        step += 1


class _Cursor:
    """Walks through shuffled epochs of one task."""

    def __init__(self, size: int, seed: int, number: int) -> None:
        self.size = size
        self.generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        self.waiting: list[int] = []

    def next(self) -> int:
        if not self.waiting:
            self.waiting = torch.randperm(self.size, generator=self.generator).tolist()
        return self.waiting.pop()
