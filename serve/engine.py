"""What an engine is: questions in, label probabilities or a stream of words out.

No HTTP and no Ray here. ``transformers_engine.py`` keeps this promise inside one process;
``app.py`` keeps it across a Ray Serve handle.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from fedkim_ray.bundle.layout import BundleFacts
from fedkim_ray.data.loading import Example
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.types import Task, TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How words are chosen, and when they end."""

    max_new_tokens: int = 64
    """Tokens generated at most."""
    temperature: float = 0.0
    """0 takes the most likely token; above, tokens are drawn."""
    top_p: float = 1.0
    """Tokens are drawn from the most likely ones that hold this share of the probability."""
    seed: int | None = None
    """The same seed draws the same tokens; any where None."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are left out of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """What encoder and aligner made of one modality group of one patient, on the CPU.

    Shape letters: K tokens, E embedding width of the base model.
    """

    tokens_KE: Tensor
    carries_K: Tensor
    """bool: tokens that carry something."""

    def __reduce__(
        self,
    ) -> tuple[Callable[..., "Feature"], tuple[np.ndarray, torch.dtype, np.ndarray]]:
        """Travel as arrays of bytes: a pickled tensor costs half a millisecond."""
        tokens = self.tokens_KE.contiguous().view(torch.uint8).numpy()
        return _unpacked, (tokens, self.tokens_KE.dtype, self.carries_K.numpy())


def _unpacked(tokens: np.ndarray, dtype: torch.dtype, carries: np.ndarray) -> Feature:
    """Return a feature that owns its memory: what arrived may be shared, and cannot be written."""
    return Feature(
        tokens_KE=torch.from_numpy(tokens.copy()).view(dtype),
        carries_K=torch.from_numpy(carries.copy()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """One patient's inputs, encoded."""

    bundle_version: str
    """Whose encoders made them; an engine of another version refuses them."""
    by_group: Mapping[str, Feature]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One question about one patient."""

    task: Task
    """A task of the bundle, or one that the asker described; it routes the experts."""
    example: Example
    """The patient's inputs and the question; its ``task`` is ``task.id``. Beside ``features`` its
    arrays are empty, and tell by their names alone what the patient carries."""
    features: Features | None = None
    """The inputs encoded; the engine encodes ``example.arrays`` where None."""
    spec: DataSpec | None = None
    """What ``example.arrays`` were laid out by; the engine's own where None."""
    sampling: Sampling = field(default_factory=Sampling)
    """No meaning for ``score``."""
    question_field: str = "question"
    """Where the question stands in the asker's request, for an error about it."""
    in_pieces: bool = True
    """False where nobody reads along: the engine may hand out the whole answer at its end, and
    spare the way of each word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What an answer came from."""

    bundle_version: str
    expert_weights: tuple[float, ...] | None
    """alpha, one weight an expert, summing to 1; None where the adapter has no experts."""
    num_prompt_tokens: int
    """Positions that the model read, modality tokens among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The answer to a yes/no question."""

    probabilities: tuple[float, float]
    """Of the two answer words; they sum to 1."""
    answer_words: tuple[str, str]
    """The task's, in the bundle that answered."""
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The next words of a generated answer."""

    text: str
    """May be empty: a token can be half a character."""
    num_tokens: int
    """Tokens generated so far."""
    finish_reason: Literal["stop", "length"] | None
    """Set on the last piece alone: the model ended, or ``max_new_tokens`` were reached."""
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What an engine serves."""

    facts: BundleFacts
    expert_weights: Mapping[TaskId, tuple[float, ...] | None]
    """alpha of every task of the bundle, with all of its modalities present."""


class Engine(Protocol):
    """A model that answers; requests of different tasks may be under way at once."""

    async def describe(self) -> Description:
        """Return what is served.

        Raises:
            NotReadyError: the engine cannot answer now.
        """
        ...

    async def score(self, requests: Sequence[EngineRequest]) -> list[Scored]:
        """Return the label probabilities of yes/no questions, in order.

        Raises:
            OverloadedError: too many requests wait.
            StaleInputsError: inputs were prepared by another bundle.
            FieldError: a question is too long for the model.
        """
        ...

    def generate(self, request: EngineRequest) -> AsyncGenerator[Piece, None]:
        """Yield an answer piece by piece; closing the iterator cancels the rest.

        Raises:
            OverloadedError: too many requests wait.
            StaleInputsError: the inputs were prepared by another bundle.
            FieldError: the question is too long for the model.
        """
        ...
