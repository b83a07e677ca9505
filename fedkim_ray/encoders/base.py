"""What an encoder is: a module from one modality group's rows to tokens.

Shape letters: N rows, K tokens, D encoder width, F features, H hours.

Encoders use LayerNorm or GroupNorm only: running statistics would be averaged across hospitals
like weights, and they describe one hospital's data.
"""

from typing import Protocol

from torch import Tensor, nn


class Encoder(Protocol):
    """ENC_m of the paper."""

    dim: int
    """D: width of a token."""
    num_tokens: int
    """K: tokens an example becomes."""

    def __call__(self, values: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Encode N rows.

        Returns:
            Tokens (N, K, D), normalised to about unit size, and which of them carry anything,
            (N, K) bool, at least one of each row.
        """
        ...


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP with a residual around each; masked keys are not seen."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim)
        )

    def forward(self, x_NKD: Tensor, hidden_NK: Tensor | None = None) -> Tensor:
        """Return (N, K, D); ``hidden_NK`` is True where a token must not be attended to."""
        h = self.norm_attention(x_NKD)
        attended, _ = self.attention(h, h, h, key_padding_mask=hidden_NK, need_weights=False)
        x = x_NKD + attended
        y: Tensor = x + self.mlp(self.norm_mlp(x))
        return y
