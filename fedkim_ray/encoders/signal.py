"""Signal encoder: a 1-D convolutional network over all leads of an ECG.

Source: FedKIM section 4.1, a convolutional encoder over 12 leads x 1000 samples. The residual
blocks are Hannun et al. 2019's, https://doi.org/10.1038/s41591-018-0268-3, made small.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (2, 2, 2, 2)
KERNEL_SAMPLES = 9


class SignalEncoder(nn.Module):
    """(N, C, T) millivolts to K tokens in time order."""

    def __init__(
        self, num_leads: int, dim: int, channels: int, num_tokens: int, dropout: float
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_tokens = num_tokens
        self.stem = nn.Conv1d(num_leads, channels, 15, stride=2, padding=7)
        self.blocks = nn.ModuleList(_Block(channels, stride, dropout) for stride in STRIDES)
        self.project = nn.Linear(2 * channels, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, values: Tensor, observed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode (N, C, T); every token carries something."""
        x = self.stem(values)
        for block in self.blocks:
            x = block(x)
        # Mean and maximum of each stretch: a rare beat must not drown in the others.
        mean = F.adaptive_avg_pool1d(x, self.num_tokens)
        peak = F.adaptive_max_pool1d(x, self.num_tokens)
        tokens = self.norm(self.project(torch.cat([mean, peak], 1).transpose(1, 2)))
        return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=x.device)


class _Block(nn.Module):
    """GroupNorm, GELU, strided convolution, with a pooled residual."""

    def __init__(self, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.convolve = nn.Conv1d(
            channels, channels, KERNEL_SAMPLES, stride=stride, padding=KERNEL_SAMPLES // 2
        )
        self.dropout = nn.Dropout(dropout)
        self.stride = stride

    def forward(self, x_NCT: Tensor) -> Tensor:
        shortcut = F.avg_pool1d(x_NCT, self.stride, ceil_mode=True)
        change: Tensor = self.convolve(self.dropout(F.gelu(self.norm(x_NCT))))
        return shortcut + change
