"""Which task a question belongs to: named, described in words, or inferred.

Yes/no tasks are answered by label probabilities, all others by generated words.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedkim_ray.types import Modality, Task, TaskId
from serve.errors import UnknownNameError

ID = re.compile(r"[A-Za-z0-9_-]+")
YES_NO_OPENINGS = frozenset(
    {"is", "are", "was", "were", "do", "does", "did", "has", "have", "had", "will", "can", "could"}
)
"""A described task whose question begins so is answered yes or no, unless it asks "you" to do
something: "Can you explain what sepsis is?" wants words."""
JUDGEMENTS = frozenset(
    {"agree", "believe", "detect", "find", "notice", "see", "spot", "suspect", "think"}
)
"""What "you" may be asked to do and yet be answered yes or no: "Can you see a fracture?"."""
GENERAL = "General medical question: answer a question about a patient in a few words."
DESCRIBED = "described_"
MIN_LETTERS = 4
"""Shorter words say little about the task."""
FILLERS = frozenset(
    {"about", "been", "does", "from", "have", "into", "over", "should", "show", "shows", "than"}
    | {"that", "there", "they", "this", "what", "when", "where", "whether", "which", "will"}
    | {"with", "would"}
)
"""Words that say nothing about the task, in whichever description they stand."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A task, and whether the asker named it."""

    task: Task
    inferred: bool


def choose_task(
    tasks: Mapping[TaskId, Task],
    named: str | None,
    modalities: Sequence[Modality],
    question: str,
) -> Choice:
    """Return the task of a question.

    Args:
        tasks: The bundle's tasks.
        named: The request's ``task``: an id, a description of a new task, or None; blank is none.
        modalities: Encoded modalities that the request carries.
        question: What is asked.

    Raises:
        UnknownNameError: ``named`` looks like an id and is none.
    """
    named = (named or "").strip()
    if not named:
        return Choice(infer_task(tasks, modalities, question), True)
    if ID.fullmatch(named):
        return Choice(known_task(tasks, named), False)
    return Choice(described_task(named, modalities, question), False)


def known_task(tasks: Mapping[TaskId, Task], task_id: str) -> Task:
    """Return a task of the bundle.

    Raises:
        UnknownNameError: it has no such task.
    """
    if task_id not in tasks:
        raise UnknownNameError(
            f"There is no task {task_id!r}.",
            f"This bundle has {', '.join(tasks)}.",
            "Name one of them, or describe a new task in a sentence.",
            "task",
        )
    return tasks[task_id]


def described_task(description: str, modalities: Sequence[Modality], question: str) -> Task:
    """Return a task that routes by ``description``; it is forgotten after its answer."""
    told = json.dumps([description, question, *modalities])
    digest = hashlib.sha256(told.encode()).hexdigest()[:12]
    return Task(
        id=DESCRIBED + digest,
        role="unseen",
        modalities=tuple(modalities) or ("text",),
        kind="yes_no" if _asks_yes_or_no(question) else "generate",
        description=description,
        question=question or description,
    )


def _asks_yes_or_no(question: str) -> bool:
    first, second, third = [*question.lower().split(), "", "", ""][:3]
    return first in YES_NO_OPENINGS and (second != "you" or third.strip(".,?!") in JUDGEMENTS)


def is_described(task: Task) -> bool:
    """Whether a task was made by ``described_task``."""
    return task.id.startswith(DESCRIBED)


def task_label(task: Task) -> str:
    """Return a task's name in metrics: described ones share a label, or users could fill it."""
    return "described" if is_described(task) else task.id


def infer_task(tasks: Mapping[TaskId, Task], modalities: Sequence[Modality], question: str) -> Task:
    """Return the task that inputs and question fit best.

    First come the tasks whose modalities overlap most with what came (intersection over union).
    Among these the question decides by the words that few of them share; where it decides
    nothing, the first that answers freely for a question, else the first. Words alone belong to
    no task and are asked as a general question.
    """
    came = set(modalities)
    if not came:
        return described_task(GENERAL, (), question)
    overlap = {t.id: _overlap(came, set(t.modalities) - {"text"}) for t in tasks.values()}
    best = max(overlap.values(), default=0.0)
    if best == 0.0:
        return described_task(GENERAL, modalities, question)
    fitting = [task for task in tasks.values() if overlap[task.id] == best]
    likeness = _likeness(question, fitting)
    if max(likeness) > 0.0:
        return fitting[likeness.index(max(likeness))]
    free = [task for task in fitting if task.kind == "generate"] if question else []
    return (free or fitting)[0]


def _overlap(came: set[Modality], wanted: set[Modality]) -> float:
    return len(came & wanted) / len(came | wanted)


def _likeness(question: str, tasks: Sequence[Task]) -> list[float]:
    """For each task, the sum over shared words of 1 / tasks that have the word, less common ones.

    A word that more than half of the tasks have tells them apart too little to count.
    """
    words = [_words(f"{task.description} {task.question}") for task in tasks]
    owners = Counter(word for own in words for word in own)
    asked = {w for w in _words(question) if owners[w] <= max(1, len(tasks) // 2)}
    return [sum(1.0 / owners[word] for word in asked & own) for own in words]


def _words(text: str) -> set[str]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {word for word in words if len(word) >= MIN_LETTERS} - FILLERS
