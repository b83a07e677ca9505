"""From logits to tokens, each row by its own rule.

Shape letters: B rows, V vocabulary.
"""

from collections.abc import Mapping, Sequence

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
        """Return one token, drawn at this row's temperature from its most likely ones.

        Raises:
            RuntimeError: the logits are no numbers to draw by.
        """
        nats_V = logits_V.cpu().double()
        # Below the largest, which becomes 0: no temperature makes that overflow.
        p_V = ((nats_V - nats_V.max()) / self.temperature).softmax(-1).float()
        if self.top_p < 1.0:
            p_V = nucleus(p_V, self.top_p)
        return torch.multinomial(p_V, 1, generator=self.generator)[0]


def choose_tokens(
    logits_BV: Tensor, draws: Sequence[Draw]
) -> tuple[Tensor, Mapping[int, Exception]]:
    """Choose one token a row: the most likely one where the temperature is 0.

    Returns:
        Tokens, (B,) int64, and by row what went wrong where none could be drawn.
    """
    tokens_B = logits_BV.argmax(-1)
    failures: dict[int, Exception] = {}
    for row, draw in enumerate(draws):
        if draw.temperature > 0.0:
            try:
                tokens_B[row] = draw.draw(logits_BV[row])
            except Exception as error:
                failures[row] = error
    return tokens_B, failures


def nucleus(p_V: Tensor, top_p: float) -> Tensor:
    """Return ``p_V`` with 0 beyond the smallest set of likeliest tokens that holds ``top_p``.

    Source: Holtzman et al., ICLR 2020, section 3.1. https://arxiv.org/abs/1904.09751
    """
    sorted_V, order_V = p_V.sort(descending=True)
    before_V = sorted_V.cumsum(-1) - sorted_V
    return torch.zeros_like(p_V).scatter(-1, order_V, sorted_V * (before_V < top_p))
