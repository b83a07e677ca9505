"""Coordinate-wise trimmed mean of the clients' changes.

    d_j = mean of (theta_k - theta)_j without its b smallest and b largest,  b = floor(beta * K)
    theta = theta + d

It holds against at most b faulty clients, so that b >= 1 is asked for.

Source: Yin et al. 2018, algorithm 1 (option II), https://arxiv.org/abs/1803.01498
"""

import math
from dataclasses import dataclass

from torch import Tensor

from fedkim_ray.federation.strategies.robust import Robust

ROUNDING = 1e-9
"""0.2 * 15 is 3, whatever floating point says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimmedMean(Robust):
    """The mean of the clients without the outermost, coordinate by coordinate."""

    beta: float
    """Share cut off at each end, in [0, 0.5)."""

    @property
    def min_updates(self) -> int:
        """The least K of which one is cut off at each end; 1 with beta = 0, which cuts nothing."""
        return math.ceil(1 / self.beta - ROUNDING) if self.beta else 1

    def combine(self, deltas_KN: Tensor) -> Tensor:
        """Return the trimmed mean over clients, (N,)."""
        K = len(deltas_KN)
        b = math.floor(self.beta * K + ROUNDING)
        return deltas_KN.sort(0).values[b : K - b].mean(0)
