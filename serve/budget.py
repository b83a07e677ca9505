"""How many tokens a question may have: the base model's positions, less the modality tokens."""

from typing import cast

import torch

from fedkim_ray.injection.aligner import Aligner
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.prompt import prompt_text
from serve.engine import EngineRequest
from serve.errors import FieldError, ServingError
from serve.refusals import broken

NO_LIMIT = 1 << 30
"""Positions of a base model that names none."""


class PositionBudget:
    """Refuses questions that do not fit, before they make a batch of others long."""

    def __init__(self, model: InjectedModel, most_positions: int | None = None) -> None:
        """Reckon with the base model's positions, or fewer where the engine has no room for all."""
        self.tokenizer = model.tokenizer
        config = model.causal_lm.config
        known = int(getattr(config, "max_position_embeddings", None) or NO_LIMIT)
        self.positions = min(known, most_positions or NO_LIMIT)
        fixed = len(self._ids(model.format.user_open + model.format.answer_open))
        self.most = (
            self.positions - fixed - sum(feature_positions(model, g) for g in model.aligners)
        )

    def problem(self, request: EngineRequest, num_new: int) -> ServingError | None:
        """Return what is wrong with a question's text; None where it fits."""
        words = prompt_text(request.example.question, request.example.text)
        try:
            num_words = len(self._ids(words))
        except Exception as error:  # a text that no tokenizer reads fails alone
            return broken(error)
        if num_words + num_new <= self.most:
            return None
        return FieldError(
            f"The text has {num_words} tokens and {num_new} more are to be generated.",
            f"Both together are at most {self.most} for this model.",
            "Shorten the text or lower max_tokens.",
            request.question_field,
        )

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)


@torch.inference_mode()
def feature_positions(model: InjectedModel, group: str) -> int:
    """Return how many positions one row of a modality group takes in the prompt."""
    weight = next(model.light.parameters())
    blank = model.light.blank_row(group)
    observed = None if blank.observed is None else blank.observed.to(weight.device)
    tokens, _ = model.light.encoders[group](blank.values.to(weight), observed)
    pooled = cast(Aligner, model.aligners[group]).num_tokens
    return int(min(tokens.shape[1], pooled or NO_LIMIT))
