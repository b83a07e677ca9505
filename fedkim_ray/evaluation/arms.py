"""Several models on the same questions, over training seeds and test subjects.

    M_a(k, w)   metric of arm a trained with seed k, its subjects weighted by w
    value       mean over k of M_a(k, 1)
    draw        w as in ``bootstrap.py``, and seed weights v: sum over k of v_k M_a(k, w)
    difference  the first arm's value minus another's, both in the same draw

An arm is one way of coming to a model: a variant of the method, or a reference. Arms that were
trained with the same seed are paired. Of K seeds a draw takes K - 1 with replacement: the mean of
so many varies as much as the mean of K fresh seeds would, where drawing K of K would understate
it by (K - 1) / K. One seed cannot be resampled; its interval is over subjects alone.

Shape letters: K seeds, S draws, N answers.

Source: Rao and Wu 1988, https://doi.org/10.1080/01621459.1988.10478591 (rescaled bootstrap).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedkim_ray.errors import DataError
from fedkim_ray.evaluation.answers import of_task
from fedkim_ray.evaluation.bootstrap import Estimate, draw_weights, summary
from fedkim_ray.evaluation.judge import metric_function
from fedkim_ray.evaluation.metrics import NAMES_BY_KIND, NO_PROBABILITY, WHY_UNDEFINED
from fedkim_ray.types import Frozen, Task, TaskId

ArmAnswers = Mapping[int, pa.Table]
"""One arm's answers tables by training seed. A reference that has no seed has one table, 0."""


class ArmResult(Frozen):
    """One metric of one arm on one task, and how far it is from the first arm's."""

    arm: str
    task: TaskId
    role: Literal["train", "unseen"]
    metric: str
    num_questions: int
    num_subjects: int
    num_seeds: int
    value: Estimate
    difference: Estimate | None = None
    """First arm minus this one, paired; None for the first arm, and where it was not asked."""

    @property
    def verdict(self) -> Literal["first", "this", "undecided"]:
        """Which arm the interval puts ahead; ``undecided`` where it holds 0."""
        d = self.difference
        if d is not None and d.low is not None and d.low > 0:
            return "first"
        return "this" if d is not None and d.high is not None and d.high < 0 else "undecided"


def compare_arms(
    arms: Mapping[str, ArmAnswers],
    tasks: Mapping[TaskId, Task],
    num_draws: int = 1000,
    seed: int = 0,
) -> list[ArmResult]:
    """Return every metric of every arm on every task that it answered.

    Args:
        arms: Answers by arm; the others are held against the first.
        tasks: The tasks, by id.
        num_draws: S.
        seed: Seed of the draws.

    Raises:
        DataError: two arms answered different questions of one task, or an arm's seeds are not
            those of the others.
    """
    seeds = _common_seeds(arms)
    share_SK = seed_shares(len(seeds), num_draws, seed)
    present = {t for tables in arms.values() for a in tables.values() for t in _tasks_of(a)}
    results: list[ArmResult] = []
    for task in (task for task in tasks.values() if task.id in present):
        rows = _rows_by_arm(task.id, arms, seeds)
        results += _task_results(task, rows, next(iter(arms)), share_SK, seed)
    return results


def seed_shares(num_seeds: int, num_draws: int, seed: int = 0) -> np.ndarray:
    """Return the seeds' shares, (1 + S, K), rows sum to 1; the first row is the plain mean."""
    share_1K = np.full((1, num_seeds), 1.0 / num_seeds)
    if num_seeds == 1:
        return np.ones((1 + num_draws, 1))
    rng = np.random.default_rng([seed, 1])  # apart from the subjects' draws
    times_SK = rng.multinomial(num_seeds - 1, share_1K[0], size=num_draws)
    return np.concatenate([share_1K, times_SK / (num_seeds - 1)])


def _task_results(
    task: Task,
    rows_by_arm: Mapping[str, Sequence[pa.Table]],
    first_arm: str,
    share_SK: np.ndarray,
    seed: int,
) -> Iterator[ArmResult]:
    """Yield one task's results: arms in order, and each arm's metrics in order."""
    first_rows = next(iter(rows_by_arm.values()))[0]
    subjects = first_rows["subject_id"].to_pylist()
    drawn = {
        arm: _values(task, rows, subjects, share_SK, seed) for arm, rows in rows_by_arm.items()
    }
    first = drawn.get(first_arm, {})
    for arm, values in drawn.items():
        for metric in NAMES_BY_KIND[task.kind]:
            difference = None
            if arm != first_arm and metric in values and metric in first:
                difference = _estimate(metric, first[metric] - values[metric])
            yield ArmResult(
                arm=arm,
                task=task.id,
                role=task.role,
                metric=metric,
                num_questions=first_rows.num_rows,
                num_subjects=len(set(subjects)),
                num_seeds=len(rows_by_arm[arm]),
                value=_estimate(metric, values.get(metric)),
                difference=difference,
            )


def _values(
    task: Task, rows: Sequence[pa.Table], subjects: Sequence[str], share_SK: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Return each metric's mean over the drawn seeds, (1 + S,), the point estimate first."""
    functions = [metric_function(table, task) for table in rows]
    once = np.ones((1, len(subjects)))
    parts = [
        [dict(function(weights)) for function in functions]
        for weights in (once, *draw_weights(subjects, len(share_SK) - 1, seed))
    ]
    share_SK = share_SK if len(rows) > 1 else np.ones((len(share_SK), 1))
    names = set.intersection(*(set(values) for values in parts[0]))
    return {
        name: np.einsum(
            "ks,sk->s",
            np.stack([np.concatenate([p[k][name] for p in parts]) for k in range(len(rows))]),
            share_SK,
        )
        for name in names
    }


def _estimate(metric: str, values_S: np.ndarray | None) -> Estimate:
    if values_S is None:
        return Estimate(value=None, note=NO_PROBABILITY)
    return summary(float(values_S[0]), values_S[1:], WHY_UNDEFINED.get(metric, ""))


def _common_seeds(arms: Mapping[str, ArmAnswers]) -> list[int]:
    """Return the seeds that every arm was trained with; an arm of one table has none of its own."""
    seeds = max((sorted(tables) for tables in arms.values()), key=len)
    for arm, tables in arms.items():
        if len(tables) > 1 and sorted(tables) != seeds:
            raise DataError(
                f"{arm!r} was trained with the seeds {sorted(tables)}.",
                f"The others have {seeds}, and are paired with it seed by seed.",
                "Train it with the same seeds.",
            )
    return seeds


def _tasks_of(answers: pa.Table) -> list[TaskId]:
    return list(pc.unique(answers["task"]).to_pylist())


def _rows_by_arm(
    task: TaskId, arms: Mapping[str, ArmAnswers], seeds: Sequence[int]
) -> dict[str, list[pa.Table]]:
    """Return each arm's rows of one task, a table a seed, all in the order of the sample ids."""
    rows = {}
    for arm, tables in arms.items():
        chosen = [tables[k] for k in seeds] if len(tables) > 1 else [*tables.values()]
        mine = [of_task(table, task).sort_by("sample_id") for table in chosen]
        if all(table.num_rows for table in mine):
            rows[arm] = mine
    _require_same_questions(task, rows)
    return rows


def _require_same_questions(task: TaskId, rows: Mapping[str, Sequence[pa.Table]]) -> None:
    first, *others = [(arm, table) for arm, tables in rows.items() for table in tables]
    for arm, table in others:
        for column in ("sample_id", "label", "answer"):
            if table[column].to_pylist() != first[1][column].to_pylist():
                raise DataError(
                    f"{arm!r} and {first[0]!r} differ in {column!r} on task {task!r}.",
                    "All models answer the same questions, which have one right answer.",
                    "Evaluate them on the same data root and with the same max_questions.",
                )
