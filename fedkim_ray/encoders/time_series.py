"""Time-series encoder: one token an hour, then a transformer over the hours.

Source: FedKIM section 4.1, Linear(48 -> 512) and one Transformer layer. The mask enters beside the
values, so that a missing value differs from an average one.
"""

import torch
from torch import Tensor, nn

from fedkim_ray.encoders.base import TransformerBlock


class TimeSeriesEncoder(nn.Module):
    """(N, H, F) standardised values and their masks to H tokens; hour 0's always carries."""

    def __init__(
        self, num_features: int, hours: int, dim: int, depth: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_tokens = hours
        self.embed = nn.Sequential(nn.Linear(2 * num_features, dim), nn.GELU(), nn.Linear(dim, dim))
        self.position = nn.Parameter(0.02 * torch.randn(hours, dim))
        self.blocks = nn.ModuleList(TransformerBlock(dim, num_heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, values: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Encode (N, H, F); a token carries where its hour has an observation, the first always.

        So every row has a token: one that was never observed has that of an unobserved hour 0.
        """
        assert observed is not None
        carries = observed.any(-1)
        # Hour 0 is always attended to, so that a row without any observation has a softmax and a
        # mean of tokens; where later hours were observed, it says that the first was not.
        hidden = ~carries
        hidden[:, 0] = False
        x = self.embed(torch.cat([values, observed.to(values.dtype)], -1)) + self.position
        for block in self.blocks:
            x = block(x, hidden)
        return self.norm(x), ~hidden
