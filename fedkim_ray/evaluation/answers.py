"""The answers table: every question, the right answer and the model's."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from fedkim_ray.data.loading import SampleSet
from fedkim_ray.data.schema import TRAITS
from fedkim_ray.types import Task, TaskId

ANSWERS = pa.schema(
    [
        ("sample_id", pa.string()),
        ("subject_id", pa.string()),
        ("task", pa.string()),
        ("role", pa.string()),
        ("kind", pa.string()),
        ("question", pa.string()),
        ("label", pa.int8()),
        ("answer", pa.string()),
        ("probability_yes", pa.float64()),
        ("said", pa.string()),
        ("reading", pa.string()),
        *TRAITS,
    ]
)
"""``answer`` is the right one, ``said`` the model's; ``label`` is null for generated answers and
``probability_yes`` where words were generated; ``reading`` says how ``said`` came about.
Sex, age and site are null where the data do not state them."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered to one question."""

    said: str
    reading: str
    probability_yes: float | None = None


def answer_table(
    samples: Mapping[TaskId, SampleSet],
    answers: Mapping[TaskId, Sequence[Answer]],
    tasks: Mapping[TaskId, Task],
) -> pa.Table:
    """Put answers beside their questions: task by task, rows in the order of ``samples``."""
    parts = [_task_table(tasks[t], rows, answers[t]) for t, rows in samples.items()]
    return pa.concat_tables([ANSWERS.empty_table(), *parts]).combine_chunks()


def of_task(answers: pa.Table, task: TaskId) -> pa.Table:
    """Return one task's rows."""
    return answers.filter(pc.equal(answers["task"], task))


def said_label(said: str, answer_words: tuple[str, str]) -> int | None:
    """Return 0 or 1 for the answer word that comes first in ``said``; None where neither does.

    Whole words count, in any case: "Not sure" holds no "No".
    """
    places = [_place(word, said) for word in answer_words]
    found = [(place, label) for label, place in enumerate(places) if place is not None]
    return min(found)[1] if found else None


def _place(word: str, said: str) -> int | None:
    match = re.search(rf"(?<!\w){re.escape(word.strip())}(?!\w)", said, re.IGNORECASE)
    return match.start() if match else None


def _task_table(task: Task, rows: SampleSet, answers: Sequence[Answer]) -> pa.Table:
    """Return one task's part of the table."""
    size, source = len(rows), rows.table
    stated = {*source.column_names}
    optional = [ANSWERS.field(name) for name in ("label", *TRAITS.names)]
    columns = {
        **{
            f.name: source[f.name] if f.name in stated else pa.nulls(size, f.type) for f in optional
        },
        "sample_id": source["sample_id"],
        "subject_id": source["subject_id"],
        "task": pa.array([task.id] * size, pa.string()),
        "role": pa.array([task.role] * size, pa.string()),
        "kind": pa.array([task.kind] * size, pa.string()),
        "question": source["question"],
        "answer": source["answer"],
        "probability_yes": pa.array([a.probability_yes for a in answers], pa.float64()),
        "said": pa.array([a.said for a in answers], pa.string()),
        "reading": pa.array([a.reading for a in answers], pa.string()),
    }
    return pa.table({name: columns[name] for name in ANSWERS.names}).cast(ANSWERS)
