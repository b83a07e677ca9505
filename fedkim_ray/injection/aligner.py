"""Feature alignment: e = g_m(ENC_m(x)), g_m linear into the LLM's embedding space.

Shape letters: N rows, K encoder tokens, J aligned tokens, D encoder width, E embedding width.

Source: FedKIM section 3.2, step 1. https://arxiv.org/abs/2408.10276
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Aligner(nn.Module):
    """g_m of one modality group, with optional pooling to J tokens first."""

    def __init__(
        self, dim: int, embed_dim: int, embed_scale: float, num_tokens: int | None = None
    ) -> None:
        """Start at the size of the LLM's own embeddings.

        Args:
            dim: D; encoders end in LayerNorm, so their tokens have unit size.
            embed_dim: E.
            embed_scale: Root mean square of the LLM's embedding entries, about 0.1.
            num_tokens: J; all K tokens where None.
        """
        super().__init__()
        self.num_tokens = num_tokens
        self.project = nn.Linear(dim, embed_dim)
        nn.init.normal_(self.project.weight, std=embed_scale / dim**0.5)
        nn.init.zeros_(self.project.bias)

    def forward(self, tokens_NKD: Tensor, carries_NK: Tensor) -> tuple[Tensor, Tensor]:
        """Return aligned tokens (N, J, E) and which of them carry anything, (N, J) bool."""
        if self.num_tokens is not None and self.num_tokens < tokens_NKD.shape[1]:
            tokens_NKD, carries_NK = pool_tokens(tokens_NKD, carries_NK, self.num_tokens)
        return self.project(tokens_NKD), carries_NK


def pool_tokens(tokens_NKD: Tensor, carries_NK: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Average ``num`` equal stretches of tokens over those that carry something."""
    weight_NK = carries_NK.to(tokens_NKD.dtype)
    weighted = (tokens_NKD * weight_NK[..., None]).transpose(1, 2)
    mean = F.adaptive_avg_pool1d(weighted, num).transpose(1, 2)
    share = F.adaptive_avg_pool1d(weight_NK[:, None], num)[:, 0]
    carries = share > 0
    return mean / torch.where(carries, share, torch.ones_like(share))[..., None], carries
