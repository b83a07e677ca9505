"""Ask an injected model every question of a test set, in batches, and keep every answer.

Rows are scored longest first, so that a batch holds rows of about one length and little padding;
the table returns them in the order in which they came. Rows are decoded batch by batch, so memory
holds one batch of images or signals.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import pyarrow as pa

from fedkim_ray.data.loading import Example, SampleSet, collate
from fedkim_ray.errors import TrainingDivergedError
from fedkim_ray.evaluation.answer_log import AnswerLog, Asked
from fedkim_ray.evaluation.answers import Answer, answer_table
from fedkim_ray.injection import inference
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.prompt import prompt_text
from fedkim_ray.types import Task, TaskId

Read: TypeAlias = Literal["likelihood", "generate"]
"""How a yes/no answer is read: compare the two answer words' probabilities, or parse words."""
OnProgress: TypeAlias = Callable[[int, int], None]
"""Called with the number of questions answered so far and the number of all."""


@dataclass(frozen=True, slots=True)
class Question:
    """One row of one task's test set."""

    task: TaskId
    row: int
    num_tokens: int


Answered: TypeAlias = tuple[list[Question], list[Answer]]
AskBatches: TypeAlias = Callable[[Iterable[list[Question]]], Iterator[Answered]]
"""Answers batches, each of one reading; they may come back in another order."""


def score_samples(
    model: InjectedModel,
    samples: Mapping[TaskId, SampleSet],
    *,
    batch_size: int,
    max_new_tokens: int,
    read: Read = "likelihood",
    on_progress: OnProgress | None = None,
    log: AnswerLog | None = None,
    ask: AskBatches | None = None,
) -> pa.Table:
    """Return the model's answer to every row of ``samples``, as a table of schema ``ANSWERS``.

    Args:
        model: In evaluation mode; it knows every task of ``samples``.
        samples: Rows by task; tasks may be mixed in a batch.
        batch_size: Rows in one forward pass.
        max_new_tokens: Longest generated answer.
        read: How yes/no tasks are read; tasks of the kind ``generate`` are always generated.
        on_progress: Called after each batch.
        log: Answers that are there already, and where new ones are kept.
        ask: Who answers batches; this process where None.

    Raises:
        TrainingDivergedError: a probability is NaN.
    """
    answers: dict[Asked, Answer] = dict(log.answers) if log else {}
    total = sum(len(rows) for rows in samples.values())
    ask = ask or partial(ask_here, model, samples, read, max_new_tokens)
    for batch, came in ask(batches_of(model, samples, batch_size, read, answers)):
        told = {(q.task, q.row): a for q, a in zip(batch, came, strict=True)}
        answers |= told
        if log:
            log.add(told)
        if on_progress:
            on_progress(len(answers), total)
    in_order = {t: [answers[t, row] for row in range(len(rows))] for t, rows in samples.items()}
    return answer_table(samples, in_order, model.tasks)


def ask_here(
    model: InjectedModel,
    samples: Mapping[TaskId, SampleSet],
    read: Read,
    max_new_tokens: int,
    batches: Iterable[list[Question]],
) -> Iterator[Answered]:
    """Answer one batch after the other in this process."""
    for batch in batches:
        examples = [samples[q.task][q.row] for q in batch]
        if _reading(model.tasks[batch[0].task], read) == "likelihood":
            yield batch, _by_likelihood(model, examples)
        else:
            yield batch, _by_generation(model, examples, max_new_tokens)


def num_tokens(model: InjectedModel, task: Task, samples: SampleSet) -> np.ndarray:
    """Return how many tokens each row's prompt has, (N,) int, without decoding its arrays."""
    questions = samples.table["question"].to_pylist()
    has_text = "text" in samples.table.column_names
    texts = samples.table["text"].to_pylist() if has_text else [None] * len(samples)
    prompts = [prompt_text(q, t) for q, t in zip(questions, texts, strict=True)]
    distinct = list(dict.fromkeys(prompts))
    encoded = model.tokenizer(distinct, add_special_tokens=False).input_ids if distinct else []
    length_of = dict(zip(distinct, map(len, encoded), strict=True))
    lengths_N = np.array([length_of[prompt] for prompt in prompts], dtype=int)
    for group in model.light.groups_of(task):
        lengths_N += _carries(model, samples, group) * _tokens_of(model, group)
    return lengths_N


def batches_of(
    model: InjectedModel,
    samples: Mapping[TaskId, SampleSet],
    batch_size: int,
    read: Read,
    answered: Container[Asked] = (),
) -> Iterator[list[Question]]:
    """Yield batches of one reading each, longest rows first: what does not fit fails at once."""
    questions = [
        Question(task, row, int(num))
        for task, rows in samples.items()
        for row, num in enumerate(num_tokens(model, model.tasks[task], rows))
        if (task, row) not in answered
    ]
    for reading in ("likelihood", "generate"):
        mine = [q for q in questions if _reading(model.tasks[q.task], read) == reading]
        mine.sort(key=lambda q: -q.num_tokens)
        for start in range(0, len(mine), batch_size):
            yield mine[start : start + batch_size]


def _reading(task: Task, read: Read) -> Read:
    return read if task.kind == "yes_no" else "generate"


def _carries(model: InjectedModel, samples: SampleSet, group: str) -> np.ndarray:
    """Return which rows carry any modality of an encoder group, (N,) bool."""
    carries_N = np.zeros(len(samples), dtype=bool)
    for modality in model.light.groups[group]:
        if modality in samples.table.column_names:
            carries_N |= samples.table[modality].is_valid().to_numpy()
    return carries_N


def _tokens_of(model: InjectedModel, group: str) -> int:
    """Return how many tokens a row of an encoder group becomes."""
    encoder, aligner = cast(Any, model.light.encoders[group]), cast(Any, model.aligners[group])
    num_encoded = int(encoder.num_tokens)
    return min(num_encoded, int(aligner.num_tokens or num_encoded))


def _by_likelihood(model: InjectedModel, examples: Sequence[Example]) -> list[Answer]:
    yes = inference.score(model, collate(examples, model.light.spec))[:, 1].double().tolist()
    if any(p != p for p in yes):
        raise TrainingDivergedError(
            "The model answered with a probability that is NaN.",
            "Probabilities are between 0 and 1.",
            "Evaluate in float32; if that gives NaN too, the bundle's training diverged.",
        )
    return [
        Answer(model.tasks[e.task].answer_words[int(p > 0.5)], "likelihood", p)
        for e, p in zip(examples, yes, strict=True)
    ]


def _by_generation(
    model: InjectedModel, examples: Sequence[Example], max_new_tokens: int
) -> list[Answer]:
    batch = collate(examples, model.light.spec)
    return [Answer(s, "generate") for s in inference.generate(model, batch, max_new_tokens)]
