"""Coordinate-wise trimmed mean of the clients' changes.

    d_j = mean of (theta_k - theta)_j without its b smallest and b largest,  b = floor(beta * K)
    theta = theta + d

It holds against at most b faulty clients.

Source: Yin et al. 2018, algorithm 1 (option II), https://arxiv.org/abs/1803.01498
"""

import math
from dataclasses import dataclass

from torch import Tensor

from fedkim_ray.federation.strategies.robust import Robust


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimmedMean(Robust):
    """The mean of the clients without the outermost, coordinate by coordinate."""

    beta: float
    """Share cut off at each end, in [0, 0.5)."""

    def combine(self, deltas_KN: Tensor) -> Tensor:
        """Return the trimmed mean over clients, (N,)."""
        K = len(deltas_KN)
        b = math.floor(self.beta * K + 1e-9)  # 0.2 * 15 is 3, whatever floating point says
        return deltas_KN.sort(0).values[b : K - b].mean(0)
