"""An evaluation spread over Ray: each worker holds the bundle and answers whole batches.

Workers read bundle and test data by their URLs and draw the same fixed subset, so a question
travels as a task and a row number, and only answers come back. A batch is answered as it would be
in one process, so the answers are the same on the same kind of processor.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.util import ActorPool

from fedkim_ray.bundle.read import load_bundle
from fedkim_ray.evaluation.evaluate import load_questions
from fedkim_ray.evaluation.scoring import Answered, AskBatches, Question, Read, ask_here
from fedkim_ray.ray_connection import join_or_start
from fedkim_ray.storage import Folder
from fedkim_ray.types import Frozen, TaskId


class RayQuestions(Frozen):
    """What every worker needs in order to know the questions."""

    bundle_url: str
    root_url: str
    tasks: tuple[TaskId, ...] | None
    max_questions: int | None
    read: Read
    max_new_tokens: int


class Worker:
    """One process with the bundle in memory."""

    def __init__(self, asked: RayQuestions) -> None:
        """Load bundle and questions."""
        self.asked = asked
        self.model = load_bundle(asked.bundle_url).model
        self.samples = load_questions(
            Folder.at(asked.root_url),
            self.model.light.spec,
            self.model.tasks,
            asked.tasks,
            asked.max_questions,
        ).samples

    def answer(self, batch: list[Question]) -> Answered:
        """Answer one batch."""
        asked = self.asked
        return next(ask_here(self.model, self.samples, asked.read, asked.max_new_tokens, [batch]))


@contextmanager
def ray_workers(
    asked: RayQuestions, num_workers: int, cpus_per_worker: float = 1.0
) -> Iterator[AskBatches]:
    """Start workers for the length of a block and give what asks them.

    The cluster is that of ``RAY_ADDRESS``, or a local Ray that ends with the block.

    Args:
        asked: The questions.
        num_workers: Processes with a bundle each.
        cpus_per_worker: Logical CPUs that each reserves.
    """
    own = not ray.is_initialized()
    if own:
        needed = int(-(-num_workers * cpus_per_worker // 1))
        join_or_start(num_cpus=max(os.cpu_count() or 1, needed))
    actor: Any = ray.remote(num_cpus=cpus_per_worker)(Worker)
    workers = [actor.remote(asked) for _ in range(num_workers)]
    try:
        yield lambda batches: _ask(workers, batches)
    finally:
        for worker in workers:
            ray.kill(worker)
        if own:
            ray.shutdown()


def _ask(workers: Sequence[Any], batches: Iterable[list[Question]]) -> Iterator[Answered]:
    """Yield answered batches as they come; a worker has one at a time."""
    pool: Any = ActorPool(list(workers))
    yield from pool.map_unordered(lambda worker, batch: worker.answer.remote(batch), batches)
