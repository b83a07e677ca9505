"""The router: expert weights from the descriptions of a task and of its modalities.

    Q = W_q EMB_F(M_t),  K = W_k EMB_F(T_t),  V = W_v EMB_F(T_t)
    beta_t  = softmax(Q K^T / sqrt(d_k)) V
    alpha_t = softmax( MLP( pool(beta_t) ) )                       alpha_t in R^P, sums to 1

Padding is masked in the attention and in the pooling. Routing depends on text alone, so a task
that was never trained routes by its description.

Shape letters: T tasks, M and K description tokens, D embedding width, P experts.

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
    ) -> None:
        super().__init__()
        self.query_from = query_from
        self.key_value_from = key_value_from
        self.W_q = nn.Linear(embed_dim, dim, bias=False)
        self.W_k = nn.Linear(embed_dim, dim, bias=False)
        self.W_v = nn.Linear(embed_dim, dim, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, num_experts)
        )

    def forward(self, task: EmbeddedTexts, modality: EmbeddedTexts) -> Tensor:
        """Return expert weights (T, P), float32; rows are >= 0 and sum to 1."""
        texts = {"task": task, "modality": modality}
        m, t = texts[self.query_from], texts[self.key_value_from]
        Q, K, V = self.W_q(m.tokens_TKD), self.W_k(t.tokens_TKD), self.W_v(t.tokens_TKD)
        scores_TMK = Q @ K.transpose(1, 2) / math.sqrt(Q.shape[-1])
        scores_TMK = scores_TMK.masked_fill(~t.real_TK[:, None, :], float("-inf"))
        beta_TMD = scores_TMK.float().softmax(-1).to(V.dtype) @ V
        real = m.real_TK[..., None].to(beta_TMD.dtype)
        pooled_TD = (beta_TMD * real).sum(1) / real.sum(1)
        alpha: Tensor = self.mlp(pooled_TD).float().softmax(-1)
        return alpha


def routing_entropy(alpha_TP: Tensor) -> Tensor:
    """Entropy of expert weights in nats, (T,); log(P) is uniform, 0 is one expert."""
    return -(alpha_TP * alpha_TP.clamp(min=1e-12).log()).sum(-1)
