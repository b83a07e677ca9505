"""What an evaluation found: ``report.json`` and ``answers.parquet`` in one folder."""

import hashlib
import io
from collections.abc import Mapping
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field, ValidationError

from fedkim_ray.errors import StorageError
from fedkim_ray.evaluation.answer_log import LOG
from fedkim_ray.evaluation.answers import ANSWERS
from fedkim_ray.evaluation.bootstrap import MIN_SUBJECTS, Estimate
from fedkim_ray.evaluation.metrics import HEADLINE, SHOWN
from fedkim_ray.storage import Folder
from fedkim_ray.types import Frozen, Modality, TaskId

FORMAT_VERSION = 1
REPORT = "report.json"
TABLE = "answers.parquet"


Standing = Literal["train", "left_out", "unseen"]
"""What a task is to one run: ``left_out`` has the role ``train``, and the run did not train it."""
STANDINGS: Mapping[Standing, str] = {
    "train": "Trained tasks",
    "left_out": "Tasks left out of training",
    "unseen": "Unseen tasks (zero-shot)",
}
"""Titles, in the order in which results are shown."""


def standing_of(role: Literal["train", "unseen"], trained: bool | None) -> Standing:
    """Return a task's standing; one of which it is unknown whether it was trained was."""
    return "left_out" if role == "train" and trained is False else role


class Routing(Frozen):
    """Which experts answer a task."""

    modalities: tuple[Modality, ...]
    """Those that enter the router's query: the task's that the data carry."""
    expert_weights: tuple[float, ...]
    """alpha_t, P numbers that sum to 1."""
    entropy_nats: float
    """0 for one expert, log(P) for the uniform mixture."""
    nearest_trained: TaskId | None = None
    """For a task that was not trained, the trained one whose expert weights are nearest."""
    distance: float | None = None
    """Total variation distance to it: the share of weight that would have to move, 0 to 1."""
    by_modality: dict[Modality, tuple[float, ...]] = Field(default_factory=dict)
    """For a task of several modalities, the weights where an example carries one of them alone."""


class ExpertRemoval(Frozen):
    """What one expert's absence does to a yes/no task."""

    task: TaskId
    expert: int
    change: Estimate
    """AUROC without the expert minus AUROC with it, paired by subject."""
    num_subjects: int | None = None
    """Of the questions asked; unknown in reports of old."""

    @property
    def is_decided(self) -> bool:
        """Whether the interval leaves out 0, and subjects are not few."""
        few = self.num_subjects is not None and self.num_subjects < MIN_SUBJECTS
        return self.change.side != 0 and not few


class Confusion(Frozen):
    """How many yes/no answers were right and wrong; an answer in other words is wrong."""

    tp: int
    fp: int
    fn: int
    tn: int


class Subgroup(Frozen):
    """One task's metrics on some of its questions."""

    trait: Literal["sex", "age", "site"]
    level: str
    """``female``, ``40-64``, or the site's name."""
    num_questions: int
    num_subjects: int
    metrics: dict[str, Estimate]
    """Empty where the subjects are too few to say anything."""


class TaskResult(Frozen):
    """One task's metrics."""

    task: TaskId
    role: Literal["train", "unseen"]
    kind: Literal["yes_no", "generate"]
    modalities: tuple[Modality, ...]
    data_kind: str
    """``real``, ``synthetic`` or ``real and synthetic``, from the data root's card."""
    reading: str
    num_questions: int
    num_available: int
    """Questions of the whole test split."""
    num_subjects: int
    num_yes: int | None
    """Labels that are yes; None for generated answers."""
    num_unreadable: int = 0
    """Yes/no answers in words that are neither; they count as wrong."""
    metrics: dict[str, Estimate]
    """All of its kind."""
    chosen: tuple[str, ...] = ()
    """Those that the task itself names."""
    confusion: Confusion | None = None
    """None for generated answers."""
    subgroups: tuple[Subgroup, ...] = ()
    """Empty where the data state neither sex nor age nor site."""
    routing: Routing | None = None
    note: str = ""
    trained: bool | None = None
    """Whether the bundle's run trained it; None where that is unknown."""

    @property
    def standing(self) -> Standing:
        """What the task is to the bundle's run."""
        return standing_of(self.role, self.trained)

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics for a narrow table."""
        return self.chosen or SHOWN[self.kind]

    @property
    def headline(self) -> str:
        """The metric that stands for all."""
        return self.chosen[0] if self.chosen else HEADLINE[self.kind]


class EvaluationReport(Frozen):
    """Everything that one evaluation found."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    format_version: Literal[1] = 1
    name: str
    version: str
    variant: str
    base: str
    data_name: str
    data_root: str
    read: Literal["likelihood", "generate"]
    subset_note: str
    bootstrap_samples: int
    tasks: tuple[TaskResult, ...]
    removals: tuple[ExpertRemoval, ...] = ()
    """Empty where experts were not taken away one by one."""
    scoring_seconds: float
    """Asking the model."""
    seconds: float
    """All: reading the data, asking, bootstrap."""
    answers: pa.Table | None = Field(default=None, exclude=True, repr=False)
    """Every answer; kept in ``answers.parquet`` beside the report."""

    def of(self, standing: Standing) -> tuple[TaskResult, ...]:
        """Return the tasks of one standing."""
        return tuple(t for t in self.tasks if t.standing == standing)

    def result(self, task: TaskId) -> TaskResult:
        """Return one task's result; KeyError where it was not asked."""
        return {t.task: t for t in self.tasks}[task]


def write_report(report: EvaluationReport, folder: Folder) -> None:
    """Write answers first and the report last, with the answers' SHA-256: it proves them whole.

    A report of other answers goes before these come: a kill leaves either none or a whole one.
    """
    if folder.exists(REPORT):
        folder.remove(REPORT)
    sink = io.BytesIO()
    pq.write_table(report.answers if report.answers is not None else ANSWERS.empty_table(), sink)
    folder.write_bytes(TABLE, sink.getvalue())
    digest = hashlib.sha256(sink.getvalue()).hexdigest()
    folder.write_json(REPORT, {**report.model_dump(mode="json"), "answers_sha256": digest})
    if folder.exists(LOG):  # of an evaluation that kept answers as they came
        folder.remove(LOG)


def read_report(folder: Folder) -> EvaluationReport:
    """Read an evaluation back, with its answers.

    Raises:
        StorageError: there is none, it is of another format version, or its answers were altered.
    """
    values: dict[str, Any] = folder.read_json(REPORT)
    if values.get("format_version") != FORMAT_VERSION:
        raise StorageError(
            f"{folder.full(REPORT)!r} has format version {values.get('format_version')}.",
            f"This release reads version {FORMAT_VERSION}.",
            "Evaluate the bundle again with this release.",
        )
    digest, data = values.pop("answers_sha256", None), folder.read_bytes(TABLE)
    if hashlib.sha256(data).hexdigest() != digest:
        raise StorageError(
            f"{folder.full(TABLE)!r} is not the table that {REPORT} names.",
            f"Its SHA-256 is {digest}.",
            "Evaluate the bundle again, or restore the file.",
        )
    try:
        return EvaluationReport(**values, answers=pq.read_table(io.BytesIO(data)))
    except ValidationError as error:
        raise StorageError(
            f"{folder.full(REPORT)!r} does not parse ({error.error_count()} faults).",
            f"It is a report of format version {FORMAT_VERSION}.",
            "Evaluate the bundle again with this release.",
        ) from None
