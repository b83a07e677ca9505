"""Two models on the same questions, task by task.

Only rows that both answered count, and both meet the same bootstrap draws: the interval is of the
difference, and it is narrower than the two intervals apart would suggest.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from fedkim_ray.errors import DataError
from fedkim_ray.evaluation.answers import of_task
from fedkim_ray.evaluation.bootstrap import MIN_SUBJECTS, Estimate, Metrics, resampled, summary
from fedkim_ray.evaluation.metrics import HEADLINE, NO_PROBABILITY, ONE_CLASS, auroc
from fedkim_ray.evaluation.subgroups import few_subjects
from fedkim_ray.evaluation.text_scores import TextScores
from fedkim_ray.types import Frozen, TaskId


class TaskDifference(Frozen):
    """One task's metric of two models, a minus b."""

    task: TaskId
    role: str
    metric: Literal["auroc", "token_f1"]
    """``auroc`` for yes/no tasks, ``token_f1`` for generated answers."""
    value_a: float | None
    value_b: float | None
    difference: Estimate
    num_questions: int
    """Questions that both answered."""
    num_dropped: int
    """Questions that one of them alone answered."""
    num_subjects: int
    """Subjects of those that both answered."""

    @property
    def verdict(self) -> Literal["a", "b", "undecided"]:
        """Which model the interval puts ahead: none where it holds 0, or subjects are few."""
        if self.num_subjects < MIN_SUBJECTS:
            return "undecided"
        side = self.difference.side
        return "a" if side > 0 else "b" if side < 0 else "undecided"


def compare(
    answers_a: pa.Table, answers_b: pa.Table, num_draws: int = 1000, seed: int = 0
) -> list[TaskDifference]:
    """Compare two answers tables on every task that both have.

    Args:
        answers_a: Of schema ``ANSWERS``.
        answers_b: The same, of another model, bundle or reference.
        num_draws: Bootstrap draws.
        seed: Seed of the draws.

    Raises:
        DataError: the tables have no task in common, or their right answers to one question differ.
    """
    tasks_b = set(answers_b["task"].to_pylist())
    common = [t for t in dict.fromkeys(answers_a["task"].to_pylist()) if t in tasks_b]
    if not common:
        raise DataError(
            "The two answers tables have no task in common.",
            "A comparison is made on questions that both models answered.",
            "Evaluate both on the same data root.",
        )
    return [
        _compare_task(task, of_task(answers_a, task), of_task(answers_b, task), num_draws, seed)
        for task in common
    ]


def difference_rows(differences: Sequence[TaskDifference]) -> list[dict[str, object]]:
    """Return plain values for JSON, one mapping a task."""
    return [{**d.model_dump(mode="json"), "verdict": d.verdict} for d in differences]


def print_differences(
    differences: Sequence[TaskDifference], name_a: str, name_b: str, console: Console
) -> None:
    """Print the comparison; a difference whose interval holds 0 is said to be undecided.

    Two of one name are told apart as (a) and (b).
    """
    if name_a == name_b:
        name_a, name_b = f"{name_a} (a)", f"{name_b} (b)"
    table = Table(title=f"{name_a} minus {name_b}, paired bootstrap 95 % intervals")
    counts = ("questions", "subjects")
    for column in ("task", "role", "metric", *counts, name_a, name_b, "difference", "ahead"):
        table.add_column(column, no_wrap=column == "task")
    ahead = {"a": name_a, "b": name_b, "undecided": "undecided"}
    for d in differences:
        values = [_number(d.value_a), _number(d.value_b), d.difference.signed(), ahead[d.verdict]]
        numbers = (str(d.num_questions), str(d.num_subjects))
        table.add_row(d.task, d.role, d.metric, *numbers, *values)
    console.print(table)
    if note := few_subjects({d.task: d.num_subjects for d in differences}):
        console.print(note)


def _compare_task(
    task: TaskId, a: pa.Table, b: pa.Table, num_draws: int, seed: int
) -> TaskDifference:
    rows_a, rows_b = _matched(task, a, b)
    value_a, value_b, difference = _paired(rows_a, rows_b, num_draws, seed)
    return TaskDifference(
        task=task,
        role=rows_a["role"][0].as_py(),
        metric=HEADLINE[rows_a["kind"][0].as_py()],
        value_a=value_a,
        value_b=value_b,
        difference=difference,
        num_questions=rows_a.num_rows,
        num_dropped=a.num_rows + b.num_rows - 2 * rows_a.num_rows,
        num_subjects=len(rows_a["subject_id"].unique()),
    )


def _matched(task: TaskId, a: pa.Table, b: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the rows of both with the same sample ids, in the same order."""
    place_in_b = {sample: row for row, sample in enumerate(b["sample_id"].to_pylist())}
    rows = [
        (row, place_in_b[sample])
        for row, sample in enumerate(a["sample_id"].to_pylist())
        if sample in place_in_b
    ]
    if not rows:
        raise DataError(
            f"The two answers tables share no question of task {task!r}.",
            "A comparison is made on questions that both models answered.",
            "Evaluate both on the same data root and subset.",
        )
    a, b = (t.take([pair[side] for pair in rows]) for side, t in enumerate((a, b)))
    for column in ("label", "answer"):
        if a[column].to_pylist() != b[column].to_pylist():
            raise DataError(
                f"The two answers tables differ in {column!r} on questions of task {task!r}.",
                "A question has one right answer.",
                "Evaluate both on the same version of the data root.",
            )
    return a, b


def _paired(
    a: pa.Table, b: pa.Table, num_draws: int, seed: int
) -> tuple[float | None, float | None, Estimate]:
    """Return the headline metric of both, and their difference in the same draws."""
    of_a, of_b = _headline(a), _headline(b)
    if of_a is None or of_b is None:
        return None, None, Estimate(value=None, note=NO_PROBABILITY)
    subjects = a["subject_id"].to_pylist()
    drawn_a, drawn_b = (resampled(m, subjects, num_draws, seed)["value"] for m in (of_a, of_b))
    value_a, value_b = (None if np.isnan(d[0]) else float(d[0]) for d in (drawn_a, drawn_b))
    apart = drawn_a - drawn_b
    return value_a, value_b, summary(float(apart[0]), apart[1:], len(set(subjects)), ONE_CLASS)


def _headline(rows: pa.Table) -> Metrics | None:
    """Return what computes the metric that stands for the task; None where answers have none."""
    if HEADLINE[rows["kind"][0].as_py()] == "token_f1":
        f1_N = TextScores.of(rows["answer"].to_pylist(), rows["said"].to_pylist()).token_f1
        return lambda weights_SN: {"value": weights_SN @ f1_N / weights_SN.sum(1)}
    if rows["probability_yes"].null_count:
        return None
    label_N, score_N = rows["label"].to_numpy(), rows["probability_yes"].to_numpy()
    return lambda weights_SN: {"value": auroc(weights_SN, label_N, score_N)}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
