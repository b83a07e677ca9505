"""Image encoder: a small vision transformer with a convolutional stem.

Source: DeiT, Touvron et al. 2021, https://arxiv.org/abs/2012.12877; the stem follows Xiao et al.
2021, https://arxiv.org/abs/2106.14881: a few stride-2 convolutions learn faster from little data
than one large patch projection.
"""

import math

import torch
from torch import Tensor, nn

from fedkim_ray.encoders.base import TransformerBlock


class ImageEncoder(nn.Module):
    """(N, 1, S, S) grey images to (S / patch)^2 tokens, in row order."""

    def __init__(
        self, size_px: int, patch_px: int, dim: int, depth: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_tokens = (size_px // patch_px) ** 2
        self.stem = _stem(int(math.log2(patch_px)), dim)
        self.position = nn.Parameter(0.02 * torch.randn(self.num_tokens, dim))
        self.blocks = nn.ModuleList(TransformerBlock(dim, num_heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, values: Tensor, observed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode (N, 1, S, S); every token carries something."""
        x = self.stem(values).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return self.norm(x), torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)


def _stem(halvings: int, dim: int) -> nn.Sequential:
    """Stride-2 convolutions whose width doubles up to ``dim``."""
    layers: list[nn.Module] = []
    width_in = 1
    for step in range(halvings):
        width = max(8, dim >> (halvings - 1 - step))
        layers += [nn.Conv2d(width_in, width, 3, stride=2, padding=1)]
        layers += [nn.GroupNorm(1, width), nn.GELU()]
        width_in = width
    return nn.Sequential(*layers, nn.Conv2d(width_in, dim, 1))
