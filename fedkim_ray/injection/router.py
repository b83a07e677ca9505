"""The router: expert weights from the descriptions of a task and of its modalities.

    Q = W_q EMB_F(M_t),  K = W_k EMB_F(T_t),  V = W_v EMB_F(T_t)
    beta_t  = softmax(Q K^T / sqrt(d_k)) V
    alpha_t = softmax( MLP( pool(beta_t) ) )                       alpha_t in R^P, sums to 1

With several heads, each attends with its own d_k columns of Q, K and V. With top-k, the K largest
weights are kept and made to sum to 1 again; a recipe keeps two or more, since one alone is 1
whatever the router says, which leaves it no gradient. Padding is masked in the attention and in
the pooling. Routing depends on text alone, so a task that was never trained routes by its
description.

Shape letters: T tasks, M and K description tokens, D embedding width, H heads, P experts.

Source: FedKIM section 3.2, step 2. https://arxiv.org/abs/2408.10276
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Text = Literal["modality", "task"]


@dataclass(frozen=True, slots=True)
class EmbeddedTexts:
    """EMB_F of several texts, padded to the longest."""

    tokens_TKD: Tensor
    real_TK: Tensor
    """(T, K) bool: False at padding."""

    @classmethod
    def pad(cls, texts: list[Tensor]) -> "EmbeddedTexts":
        """Pad texts of (K_i, D) each."""
        tokens = nn.utils.rnn.pad_sequence(texts, batch_first=True)
        lengths = torch.tensor([len(t) for t in texts], device=tokens.device)
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        return cls(tokens, real)


class Router(nn.Module):
    """alpha_t for each (task, modalities) pair."""

    def __init__(
        self,
        embed_dim: int,
        dim: int,
        hidden_dim: int,
        num_experts: int,
        query_from: Text = "modality",
        key_value_from: Text = "task",
        num_heads: int = 1,
        top_k: int | None = None,
    ) -> None:
        """Build the router.

        Args:
            embed_dim: D.
            dim: Width of Q, K and V; each head has d_k = dim / num_heads of it.
            hidden_dim: Width inside the MLP.
            num_experts: P.
            query_from: The description behind Q.
            key_value_from: The description behind K and V.
            num_heads: H, a divisor of ``dim``.
            top_k: Experts that keep their weight; all where None.
        """
        super().__init__()
        self.num_heads = num_heads
        self.top_k = top_k
        self.query_from = query_from
        self.key_value_from = key_value_from
        self.W_q = nn.Linear(embed_dim, dim, bias=False)
        self.W_k = nn.Linear(embed_dim, dim, bias=False)
        self.W_v = nn.Linear(embed_dim, dim, bias=False)
        # LayerNorm first: EMB_F entries are about 0.1, and so small an input would leave the MLP to
        # its biases, which are the same for every task.
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, num_experts),
        )

    def forward(self, task: EmbeddedTexts, modality: EmbeddedTexts) -> Tensor:
        """Return expert weights (T, P), float32; rows are >= 0 and sum to 1."""
        texts = {"task": task, "modality": modality}
        m, t = texts[self.query_from], texts[self.key_value_from]
        Q, K, V = self.W_q(m.tokens_TKD), self.W_k(t.tokens_TKD), self.W_v(t.tokens_TKD)
        Q, K, V = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (Q, K, V))
        scores_THMK = Q @ K.transpose(2, 3) / math.sqrt(Q.shape[-1])
        scores_THMK = scores_THMK.masked_fill(~t.real_TK[:, None, None, :], float("-inf"))
        beta_THMD = scores_THMK.float().softmax(-1).to(V.dtype) @ V
        beta_TMD = beta_THMD.transpose(1, 2).flatten(2)
        real = m.real_TK[..., None].to(beta_TMD.dtype)
        pooled_TD = (beta_TMD * real).sum(1) / real.sum(1)
        alpha_TP: Tensor = self.mlp(pooled_TD).float().softmax(-1)
        return alpha_TP if self.top_k is None else keep_top_k(alpha_TP, self.top_k)


def keep_top_k(alpha_TP: Tensor, k: int) -> Tensor:
    """Keep each row's ``k`` largest expert weights, made to sum to 1 again; the rest become 0."""
    largest, places = alpha_TP.topk(min(k, alpha_TP.shape[-1]), -1)
    kept = torch.zeros_like(alpha_TP).scatter(-1, places, largest)
    return kept / kept.sum(-1, keepdim=True)


def routing_entropy(alpha_TP: Tensor) -> Tensor:
    """Entropy of expert weights in nats, (T,); log(P) is uniform, 0 is one expert."""
    return -(alpha_TP * alpha_TP.clamp(min=1e-12).log()).sum(-1)
