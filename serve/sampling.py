"""From logits to tokens, each row by its own rule.

Shape letters: B rows, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from serve.engine import Sampling


class Draw:
    """One answer's rule, and its own random numbers: a row draws alike whoever shares its batch."""

    def __init__(self, sampling: Sampling) -> None:
        self.temperature = sampling.temperature
        self.top_p = sampling.top_p
        self.generator = torch.Generator()
        if sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(sampling.seed)

    def draw(self, logits_V: Tensor) -> Tensor:
        """Return one token, drawn at this row's temperature from its most likely ones."""
        p_V = (logits_V.cpu() / self.temperature).softmax(-1)
        if self.top_p < 1.0:
            p_V = nucleus(p_V, self.top_p)
        return torch.multinomial(p_V, 1, generator=self.generator)[0]


def choose_tokens(logits_BV: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Return one token a row, (B,) int64: the most likely one where the temperature is 0."""
    tokens_B = logits_BV.argmax(-1)
    for row, draw in enumerate(draws):
        if draw.temperature > 0.0:
            tokens_B[row] = draw.draw(logits_BV[row])
    return tokens_B


def nucleus(p_V: Tensor, top_p: float) -> Tensor:
    """Return ``p_V`` with 0 beyond the smallest set of likeliest tokens that holds ``top_p``.

    Source: Holtzman et al., ICLR 2020, section 3.1. https://arxiv.org/abs/1904.09751
    """
    sorted_V, order_V = p_V.sort(descending=True)
    before_V = sorted_V.cumsum(-1) - sorted_V
    return torch.zeros_like(p_V).scatter(-1, order_V, sorted_V * (before_V < top_p))
