"""Several models on the same questions, over training seeds and test subjects.

    M_a(k, w)   metric of arm a trained with seed k, its subjects weighted by w
    value       mean over k of M_a(k, 1)
    difference  the first arm's value minus another's: of the same seed, in the same draw
    one seed    the interval of ``bootstrap.py``, over subjects alone
    K seeds     value +- t sqrt(V + s^2 / K): V the variance over draws w of the mean over k, s^2
                the seeds' variance, t the 97.5 % quantile of Student's distribution with
                (V + s^2/K)^2 / (V^2 / (U - 1) + (s^2/K)^2 / (K - 1)) degrees of freedom

An arm is one way of coming to a model: a variant of the method, or a reference. Arms that were
trained with the same seed are paired. Seeds are so few that resampling them would leave out far
more than 5 % of what fresh seeds give: of three, the extremes of any draw are the three themselves.

Shape letters: K seeds, S draws, N answers, U subjects.

Source: Satterthwaite 1946, https://doi.org/10.2307/3002019 (degrees of freedom of such a sum).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from fedkim_ray.errors import DataError
from fedkim_ray.evaluation.answers import of_task
from fedkim_ray.evaluation.bootstrap import (
    LEVEL_PERCENT,
    MIN_SUBJECTS,
    Estimate,
    resampled,
    summary,
)
from fedkim_ray.evaluation.judge import metric_function
from fedkim_ray.evaluation.metrics import LOWEST, NAMES_BY_KIND, NO_PROBABILITY, WHY_UNDEFINED
from fedkim_ray.evaluation.results import Standing, standing_of
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
    trained: bool | None = None
    """Whether the arms' runs trained the task; None where that is unknown."""

    @property
    def standing(self) -> Standing:
        """What the task is to the arms' runs."""
        return standing_of(self.role, self.trained)

    @property
    def verdict(self) -> Literal["first", "this", "undecided"]:
        """Which arm the interval puts ahead: none where it holds 0, or subjects are few."""
        if self.difference is None or self.num_subjects < MIN_SUBJECTS:
            return "undecided"
        side = self.difference.side
        return "first" if side > 0 else "this" if side < 0 else "undecided"


def compare_arms(
    arms: Mapping[str, ArmAnswers],
    tasks: Mapping[TaskId, Task],
    num_draws: int = 1000,
    seed: int = 0,
    trained: Collection[TaskId] | None = None,
) -> list[ArmResult]:
    """Return every metric of every arm on every task that it answered.

    Args:
        arms: Answers by arm; the others are held against the first.
        tasks: The tasks, by id.
        num_draws: S.
        seed: Seed of the draws.
        trained: Tasks that the arms' runs trained; unknown where None.

    Raises:
        DataError: two arms answered different questions of one task, or an arm's seeds are not
            those of the others.
    """
    seeds = _common_seeds(arms)
    present = {t for tables in arms.values() for a in tables.values() for t in _tasks_of(a)}
    results: list[ArmResult] = []
    for task in (task for task in tasks.values() if task.id in present):
        rows = _rows_by_arm(task.id, arms, seeds)
        results += _task_results(task, rows, next(iter(arms)), num_draws, seed)
    if trained is None:
        return results
    return [r.model_copy(update={"trained": r.task in trained}) for r in results]


def over_seeds(value_K: np.ndarray, drawn_KS: np.ndarray, num_subjects: int) -> Estimate:
    """Return the mean over seeds with its interval over fresh seeds and subjects.

    Args:
        value_K: The metric of each seed, at least two.
        drawn_KS: The same in each draw of subjects; NaN where undefined.
        num_subjects: U, at least two.
    """
    value = float(value_K.mean())
    of_seeds = float(value_K.var(ddof=1)) / len(value_K)
    of_subjects = float(np.nanvar(drawn_KS.mean(0)))
    variance = of_seeds + of_subjects
    if variance == 0.0:
        return Estimate(value=value, low=value, high=value)
    freedom = variance**2 / (of_seeds**2 / (len(value_K) - 1) + of_subjects**2 / (num_subjects - 1))
    half = float(stats.t.ppf(0.5 + LEVEL_PERCENT / 200.0, freedom)) * variance**0.5
    return Estimate(value=value, low=value - half, high=value + half)


def _task_results(
    task: Task,
    rows_by_arm: Mapping[str, Sequence[pa.Table]],
    first_arm: str,
    num_draws: int,
    seed: int,
) -> Iterator[ArmResult]:
    """Yield one task's results: arms in order, and each arm's metrics in order."""
    first_rows = next(iter(rows_by_arm.values()))[0]
    subjects = first_rows["subject_id"].to_pylist()
    num_subjects = len(set(subjects))
    drawn = {
        arm: _values(task, rows, subjects, num_draws, seed) for arm, rows in rows_by_arm.items()
    }
    first = drawn.get(first_arm, {})
    for arm, values in drawn.items():
        for metric in NAMES_BY_KIND[task.kind]:
            lowest, difference = LOWEST.get(metric, 0.0), None
            if arm != first_arm and metric in values and metric in first:
                apart, most = first[metric] - values[metric], 1.0 - lowest
                difference = _estimate(metric, apart, num_subjects, (-most, most))
            yield ArmResult(
                arm=arm,
                task=task.id,
                role=task.role,
                metric=metric,
                num_questions=first_rows.num_rows,
                num_subjects=num_subjects,
                num_seeds=len(rows_by_arm[arm]),
                value=_estimate(metric, values.get(metric), num_subjects, (lowest, 1.0)),
                difference=difference,
            )


def _values(
    task: Task, rows: Sequence[pa.Table], subjects: Sequence[str], num_draws: int, seed: int
) -> dict[str, np.ndarray]:
    """Return each metric of each seed, (K, 1 + S): on all subjects first, then in each draw."""
    of_seeds = [resampled(metric_function(r, task), subjects, num_draws, seed) for r in rows]
    names = set.intersection(*(set(values) for values in of_seeds))
    return {name: np.stack([values[name] for values in of_seeds]) for name in names}


def _estimate(
    metric: str, values_KS: np.ndarray | None, num_subjects: int, bounds: tuple[float, float]
) -> Estimate:
    """Return the estimate of a metric that lies within ``bounds``, from ``_values``."""
    if values_KS is None:
        return Estimate(value=None, note=NO_PROBABILITY)
    value_K, drawn_KS = values_KS[:, 0], values_KS[:, 1:]
    if len(value_K) == 1 or num_subjects == 1 or np.isnan(value_K).any():
        why = WHY_UNDEFINED.get(metric, "")
        return summary(float(value_K.mean()), drawn_KS.mean(0), num_subjects, why)
    estimate = over_seeds(value_K, drawn_KS, num_subjects)
    low, high = np.clip([estimate.low, estimate.high], *bounds).tolist()
    return estimate.model_copy(update={"low": low, "high": high})


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
