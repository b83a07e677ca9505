"""Reading answers from an injected model: label probabilities, or words token by token.

Shape letters: B examples, E embedding width, V vocabulary.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import DynamicCache

from fedkim_ray.data.loading import Batch
from fedkim_ray.errors import RecipeError
from fedkim_ray.injection.base_model import BaseModel
from fedkim_ray.injection.logits import word_logits
from fedkim_ray.injection.model import InjectedModel, Prompted
from fedkim_ray.types import Task


def answer_token_ids(model: InjectedModel | BaseModel, task: Task) -> tuple[int, int]:
    """Return the first token of each answer word of a yes/no task.

    Raises:
        RecipeError: both words begin with the same token, so one pass cannot tell them apart.
    """
    tokenizer = model.tokenizer
    no, yes = (tokenizer(w, add_special_tokens=False).input_ids[0] for w in task.answer_words)
    if no == yes:
        raise RecipeError(
            f"The answer words {task.answer_words} of task {task.id!r} begin with one token.",
            "Answer words differ in their first token.",
            "Choose other answer_words for the task.",
        )
    return int(no), int(yes)


@contextmanager
def asking(model: InjectedModel, tasks: Iterable[Task]) -> Iterator[None]:
    """Let the model route tasks that it was not built with, for the length of a block.

    Afterwards it forgets them and their embedded descriptions, so that users who describe
    tasks of their own do not fill the memory.
    """
    new = {task.id: task for task in tasks if task.id not in model.tasks}
    kept = {task.description for task in model.tasks.values()}
    model.tasks.update(new)
    try:
        yield
    finally:
        for task in new.values():
            del model.tasks[task.id]
            if task.description not in kept:
                model.forget(task.description)


@torch.inference_mode()
def score(model: InjectedModel, batch: Batch, prompted: Prompted | None = None) -> Tensor:
    """Return P(no) and P(yes) of each row, (B, 2), one forward pass.

    The two answer words' next-token probabilities are compared with each other; rows of
    different tasks may share the batch.

    Args:
        model: The model, in evaluation mode.
        batch: Rows of yes/no tasks.
        prompted: ``model.prompt(batch)``, where the caller has it already.
    """
    prompted = prompted or model.prompt(batch)
    words = [answer_token_ids(model, model.tasks[e.task]) for e in batch.examples]
    with model.hold(prompted.alpha_BP):
        hidden_BE = model.hidden(prompted, use_cache=False).last_hidden_state[:, -1]
        ids_B2 = torch.tensor(words, device=hidden_BE.device)
        pair_B2 = word_logits(model.causal_lm, hidden_BE, ids_B2, model.gate)
    return pair_B2.softmax(-1).cpu()


@torch.inference_mode()
def decode(
    model: InjectedModel,
    batch: Batch,
    max_new_tokens: int,
    temperature: float = 0.0,
    prompted: Prompted | None = None,
) -> Iterator[list[int | None]]:
    """Yield one token id per row and step; None for a row whose answer is complete.

    Args:
        model: The model, in evaluation mode.
        batch: Rows with tasks and modalities of their own.
        max_new_tokens: Steps at most.
        temperature: 0 takes the most likely token; above, tokens are drawn.
        prompted: ``model.prompt(batch)``, where the caller has it already.
    """
    prompted = prompted or model.prompt(batch)
    rows = torch.arange(batch.size, device=model.device)
    stop = model.tokenizer(model.format.answer_close, add_special_tokens=False).input_ids[0]
    done = torch.zeros(batch.size, dtype=torch.bool, device=model.device)
    cache = DynamicCache()
    for _ in range(max_new_tokens):
        # Held per step: between two steps of a stream, the caller may run other batches.
        with model.hold(prompted.alpha_BP):
            out = model.hidden(_newest(prompted, cache), past_key_values=cache, use_cache=True)
            logits_BV = model.head(out.last_hidden_state[:, -1], rows)
        tokens = _choose(logits_BV.float(), temperature)
        done |= (tokens == stop) | (tokens == model.tokenizer.eos_token_id)
        yield [None if d else t for t, d in zip(tokens.tolist(), done.tolist(), strict=True)]
        if bool(done.all()):
            return
        prompted = model.extend(prompted, tokens)


def _newest(prompted: Prompted, cache: DynamicCache) -> Prompted:
    """Return the part of the sequence that is not in the cache yet, under the whole mask."""
    return prompted.from_column(cache.get_seq_length())


def _choose(logits_BV: Tensor, temperature: float) -> Tensor:
    if temperature <= 0.0:
        return logits_BV.argmax(-1)
    return torch.multinomial((logits_BV / temperature).softmax(-1), 1).squeeze(-1)


def generate(model: InjectedModel, batch: Batch, max_new_tokens: int) -> list[str]:
    """Return each row's whole answer, decoded greedily."""
    ids: list[list[int]] = [[] for _ in range(batch.size)]
    for tokens in decode(model, batch, max_new_tokens):
        for row, token in enumerate(tokens):
            if token is not None:
                ids[row].append(token)
    return [str(model.tokenizer.decode(row)).strip() for row in ids]
