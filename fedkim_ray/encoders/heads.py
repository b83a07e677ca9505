"""Decoders DEC_t of the clients' light model: one linear layer a task."""

import torch
from torch import Tensor, nn


class Heads(nn.ModuleDict):
    """A logit per yes/no task, from the joined encodings of the task's modality groups."""

    def __init__(self, widths: dict[str, int]) -> None:
        super().__init__({task: nn.Linear(width, 1) for task, width in widths.items()})

    def logits(self, task: str, joined_ND: Tensor) -> Tensor:
        """Return the logits of "yes", (N,) float."""
        y: Tensor = self[task](joined_ND)
        return y.squeeze(-1)


def masked_mean(tokens_NKD: Tensor, carries_NK: Tensor) -> Tensor:
    """Mean of the tokens that carry something, (N, D)."""
    weight = carries_NK.to(tokens_NKD.dtype)[..., None]
    return (tokens_NKD * weight).sum(1) / weight.sum(1).clamp(min=1.0)


def scatter_rows(values_ND: Tensor, rows_N: Tensor, num_rows: int) -> Tensor:
    """Return (num_rows, D) with ``values`` at ``rows`` and zeros where a modality is absent."""
    joined = torch.zeros(num_rows, values_ND.shape[1], dtype=values_ND.dtype)
    return joined.to(values_ND.device).index_copy(0, rows_N.to(values_ND.device), values_ND)
