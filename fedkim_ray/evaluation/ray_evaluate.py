"""An evaluation spread over Ray: each worker holds the bundle and answers whole batches.

Workers read bundle and test data by their URLs and draw the same fixed subset, so a question
travels as a task and a row number, and only answers come back. A batch is answered as it would be
in one process, so the answers are the same on the same kind of processor.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util import ActorPool

from fedkim_ray.bundle.read import load_bundle
from fedkim_ray.data.loading import SampleSet
from fedkim_ray.errors import EnvironmentProblemError, FedKimError
from fedkim_ray.evaluation.evaluate import load_questions
from fedkim_ray.evaluation.scoring import Answered, AskBatches, Question, Read, ask_here
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.ray_connection import join_or_start, most_resources
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
        """Keep what is asked; loading waits, for an error in here would only end the process."""
        self.asked = asked

    @cached_property
    def model(self) -> InjectedModel:
        """The bundle's model."""
        return load_bundle(self.asked.bundle_url).model

    @cached_property
    def samples(self) -> Mapping[TaskId, SampleSet]:
        """The questions, by task."""
        asked = self.asked
        return load_questions(
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

    Raises:
        EnvironmentProblemError: the cluster cannot be reached, has too few CPUs, or lost a worker.
        FedKimError: what a worker raised.
    """
    own, needed = not ray.is_initialized(), num_workers * cpus_per_worker
    if own:
        join_or_start(num_cpus=max(os.cpu_count() or 1, int(-(-needed // 1))))
    workers: list[Any] = []
    try:
        _require_cpus(needed)
        actor: Any = ray.remote(num_cpus=cpus_per_worker)(Worker)
        workers += [actor.remote(asked) for _ in range(num_workers)]
        yield lambda batches: _ask(workers, batches)
    finally:
        for worker in workers:
            with suppress(RayError):  # it also runs on the way out of a lost cluster
                ray.kill(worker)
        if own:
            ray.shutdown()


def _require_cpus(needed: float) -> None:
    """Refuse at once what Ray would wait for in vain."""
    if (has := most_resources().get("CPU", 0.0)) < needed:
        raise EnvironmentProblemError(
            f"The Ray cluster has, or may grow to, {has:g} CPUs.",
            f"The workers of this evaluation reserve {needed:g} at once.",
            "Lower --workers, or add nodes.",
        )


def _ask(workers: Sequence[Any], batches: Iterable[list[Question]]) -> Iterator[Answered]:
    """Yield answered batches as they come; a worker has one at a time."""
    pool: Any = ActorPool(list(workers))
    try:
        yield from pool.map_unordered(lambda worker, batch: worker.answer.remote(batch), batches)
    except RayError as error:
        raise own_error(error) from error


def own_error(error: RayError) -> FedKimError:
    """Return what a worker raised on purpose; what else befell it is a problem of the cluster."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, FedKimError):
        return cause
    told = repr(cause) if cause else str(error).splitlines()[0]
    return EnvironmentProblemError(
        f"A worker of the evaluation failed: {told}",
        "Workers have memory for a bundle each, and read bundle and data root by their URLs.",
        "Lower --workers or use URLs that every node can read; answers in --out are kept.",
    )
