"""Ask a frozen language model in text alone: the ``base`` reference.

Questions whose prompts are alike are asked once: a model without an image gives all of them one
answer, exactly, and not only up to the rounding of differently padded batches.

Shape letters: B prompts, L positions, E embedding width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from fedkim_ray.data.loading import SampleSet
from fedkim_ray.evaluation.answers import Answer, answer_table
from fedkim_ray.evaluation.scoring import OnProgress, Read
from fedkim_ray.injection.base_model import BaseModel
from fedkim_ray.injection.inference import answer_token_ids
from fedkim_ray.injection.logits import word_logits
from fedkim_ray.injection.prompt import PromptFormat, prompt_text, series_as_text
from fedkim_ray.types import Task, TaskId

GREEDY: Mapping[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
"""The likeliest word each time, as an injected model decodes, whatever the base model's own
``generation_config.json`` says."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question in words."""

    text: str
    task: Task
    generated: bool
    """Whether words are generated, or the answer words' probabilities compared."""


def ask_in_text(
    base: BaseModel,
    samples: Mapping[TaskId, SampleSet],
    tasks: Mapping[TaskId, Task],
    *,
    batch_size: int,
    max_new_tokens: int,
    read: Read = "likelihood",
    on_progress: OnProgress | None = None,
) -> pa.Table:
    """Return the base model's answer to every row, as a table of schema ``ANSWERS``.

    Args:
        base: The frozen model.
        samples: Rows by task.
        tasks: Tasks by id.
        batch_size: Prompts in one forward pass.
        max_new_tokens: Longest generated answer.
        read: How yes/no tasks are read.
        on_progress: Called after each batch, with numbers of distinct prompts.
    """
    prompts = {t: _prompts(rows, tasks[t], read) for t, rows in samples.items()}
    distinct = list(dict.fromkeys(p for of_task in prompts.values() for p in of_task))
    asked: dict[Prompt, Answer] = {}
    for batch in _batches(distinct, batch_size):
        asked |= dict(zip(batch, _ask(base, batch, max_new_tokens), strict=True))
        if on_progress:
            on_progress(len(asked), len(distinct))
    return answer_table(samples, {t: [asked[p] for p in ps] for t, ps in prompts.items()}, tasks)


def tables_only(samples: SampleSet) -> SampleSet:
    """Return the rows without images and signals, which then need not be decoded."""
    heavy = [name for name in ("image", "signal") if name in samples.table.column_names]
    return SampleSet(samples.table.drop_columns(heavy), samples.spec)


def _prompts(samples: SampleSet, task: Task, read: Read) -> list[Prompt]:
    """Return each row's prompt: its own text, its time series in words, its question."""
    generated = task.kind == "generate" or read == "generate"
    rows = tables_only(samples)
    prompts = []
    for example in (rows[i] for i in range(len(rows))):
        parts = [example.text, series_as_text(example, samples.spec)]
        text = "\n".join(part for part in parts if part)
        prompts.append(Prompt(prompt_text(example.question, text), task, generated))
    return prompts


def _batches(prompts: Sequence[Prompt], batch_size: int) -> Iterator[list[Prompt]]:
    """Yield batches of one reading each, longest prompts first."""
    for generated in (False, True):
        mine = [p for p in prompts if p.generated == generated]
        mine.sort(key=lambda p: -len(p.text))
        for start in range(0, len(mine), batch_size):
            yield mine[start : start + batch_size]


def _ask(base: BaseModel, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Answer]:
    if prompts[0].generated:
        return _generate(base, prompts, max_new_tokens)
    return _score(base, prompts)


@torch.inference_mode()
def _score(base: BaseModel, prompts: Sequence[Prompt]) -> list[Answer]:
    ids_BL, mask_BL = _tokens(base, prompts)
    positions_BL = (mask_BL.cumsum(-1) - 1).clamp(min=0)
    decoder = getattr(base.llm, base.llm.base_model_prefix)
    out = decoder(input_ids=ids_BL, attention_mask=mask_BL, position_ids=positions_BL)
    hidden_BE = out.last_hidden_state[:, -1]
    ids_B2 = torch.tensor([answer_token_ids(base, p.task) for p in prompts])
    pair_B2 = word_logits(base.llm, hidden_BE, ids_B2.to(hidden_BE.device))
    yes = pair_B2.softmax(-1)[:, 1].tolist()
    return [
        Answer(prompt.task.answer_words[int(p > 0.5)], "likelihood", p)
        for prompt, p in zip(prompts, yes, strict=True)
    ]


@torch.inference_mode()
def _generate(base: BaseModel, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Answer]:
    ids_BL, mask_BL = _tokens(base, prompts)
    tokenizer = base.tokenizer
    close = PromptFormat.of(tokenizer).answer_close
    stop = tokenizer(close, add_special_tokens=False).input_ids[0]
    out_BL = base.llm.generate(
        input_ids=ids_BL,
        attention_mask=mask_BL,
        max_new_tokens=max_new_tokens,
        **GREEDY,
        eos_token_id=sorted({stop, tokenizer.eos_token_id} - {None}),
        pad_token_id=stop,
    )
    came = out_BL[:, ids_BL.shape[1] :].tolist()
    return [Answer(str(tokenizer.decode(_until(stop, row))).strip(), "generate") for row in came]


def _until(stop: int, tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(stop)] if stop in tokens else tokens


def _tokens(base: BaseModel, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
    """Return token ids and mask, (B, L) int64 each, padded on the left."""
    form = PromptFormat.of(base.tokenizer)
    texts = [form.user_open + p.text + form.answer_open for p in prompts]
    rows = base.tokenizer(texts, add_special_tokens=False).input_ids
    length = max(map(len, rows))
    ids_BL = torch.zeros(len(rows), length, dtype=torch.long)
    mask_BL = torch.zeros(len(rows), length, dtype=torch.long)
    for row, ids in enumerate(rows):
        ids_BL[row, length - len(ids) :] = torch.tensor(ids)
        mask_BL[row, length - len(ids) :] = 1
    return ids_BL.to(base.llm.device), mask_BL.to(base.llm.device)
