"""From answers to metrics: what each task's answers are worth, with bootstrap intervals."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fedkim_ray.data.loading import SampleSet
from fedkim_ray.data.root import DatasetCard
from fedkim_ray.errors import DataError
from fedkim_ray.evaluation.answers import of_task, said_label
from fedkim_ray.evaluation.bootstrap import Estimate, Metrics
from fedkim_ray.evaluation.metrics import (
    NAMES_BY_KIND,
    Confusion,
    named_estimates,
    readable,
    yes_no_function,
)
from fedkim_ray.evaluation.results import Confusion as ConfusionCounts
from fedkim_ray.evaluation.results import Routing, TaskResult
from fedkim_ray.evaluation.subgroups import subgroups_of
from fedkim_ray.evaluation.text_scores import TextScores
from fedkim_ray.types import Task, TaskId


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The questions of an evaluation."""

    card: DatasetCard
    tasks: Mapping[TaskId, Task]
    samples: Mapping[TaskId, SampleSet]
    num_available: Mapping[TaskId, int]
    """Questions of each whole test split."""

    @property
    def note(self) -> str:
        """Which questions were asked, as a sentence."""
        asked, available = sum(map(len, self.samples.values())), sum(self.num_available.values())
        if asked == available:
            return f"All {available} test questions were asked."
        return (
            f"A fixed subset of {asked} of the {available} test questions was asked, "
            "shared evenly by the tasks, labels in their proportion."
        )


def judge(
    answers: pa.Table,
    test: QuestionSet,
    num_draws: int,
    *,
    routing: Mapping[TaskId, Routing] | None = None,
    notes: Mapping[TaskId, str] | None = None,
    trained: Collection[TaskId] | None = None,
) -> tuple[TaskResult, ...]:
    """Return the metrics of each task that was answered, with bootstrap intervals.

    Args:
        answers: Of schema ``ANSWERS``.
        test: The questions.
        num_draws: Bootstrap draws.
        routing: Expert weights by task.
        notes: By task, what a reader must know of it.
        trained: Tasks that the model's run trained; unknown where None.

    Raises:
        DataError: a question of a yes/no task has no label.
    """
    return tuple(
        _judge_task(
            of_task(answers, task),
            test,
            test.tasks[task],
            num_draws,
            (routing or {}).get(task),
            (notes or {}).get(task, ""),
            None if trained is None else task in trained,
        )
        for task in test.samples
    )


def metrics_of(rows: pa.Table, task: Task, num_draws: int) -> dict[str, Estimate]:
    """Return the metrics of one task's rows of an answers table."""
    names, subjects = NAMES_BY_KIND[task.kind], rows["subject_id"].to_pylist()
    return named_estimates(metric_function(rows, task), names, subjects, num_draws)


def metric_function(rows: pa.Table, task: Task) -> Metrics:
    """Return what computes a task's metrics from weights of its answers.

    Words without probabilities have no AUROC and no calibration error: those are left out.

    Raises:
        DataError: a question of a yes/no task has no label.
    """
    said = rows["said"].to_pylist()
    if task.kind == "generate":
        return TextScores.of(rows["answer"].to_pylist(), said).metrics
    if rows["label"].null_count:
        raise DataError(
            f"{rows['label'].null_count} test questions of {task.id!r} have no label.",
            "Every question of a yes/no task has the label 0 or 1.",
            "Import the task's test data again.",
        )
    probability = rows["probability_yes"]
    return yes_no_function(
        rows["label"].to_numpy(),
        [said_label(words, task.answer_words) for words in said],
        None if probability.null_count else probability.to_numpy(),
    )


def _judge_task(
    rows: pa.Table,
    test: QuestionSet,
    task: Task,
    num_draws: int,
    routing: Routing | None,
    note: str,
    trained: bool | None,
) -> TaskResult:
    yes_no = task.kind == "yes_no"
    said = [said_label(words, task.answer_words) for words in rows["said"].to_pylist()]
    return TaskResult(
        task=task.id,
        role=task.role,
        kind=task.kind,
        modalities=task.modalities,
        data_kind=test.card.kind_of(task.id),
        reading=rows["reading"][0].as_py(),
        num_questions=rows.num_rows,
        num_available=test.num_available[task.id],
        num_subjects=len(rows["subject_id"].unique()),
        metrics=metrics_of(rows, task, num_draws),
        chosen=task.metrics,
        num_yes=sum(rows["label"].to_pylist()) if yes_no else None,
        num_unreadable=said.count(None) if yes_no else 0,
        confusion=_confusion(rows, said) if yes_no else None,
        subgroups=subgroups_of(rows, lambda some: metrics_of(some, task, num_draws)),
        routing=routing,
        note=note,
        trained=trained,
    )


def _confusion(rows: pa.Table, said: Sequence[int | None]) -> ConfusionCounts:
    label = rows["label"].to_numpy()
    counts = Confusion.count(np.ones((1, len(label))), label, readable(label, said))
    names = ("tp", "fp", "fn", "tn")
    return ConfusionCounts(**{name: int(getattr(counts, name)[0]) for name in names})
