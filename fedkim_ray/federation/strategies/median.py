"""Coordinate-wise median of the clients' changes.

    d_j = median_k (theta_k - theta)_j      for every coordinate j
    theta = theta + d

The median of an even number is the mean of the middle two. Fewer than half of the clients, wherever
they send the rest, cannot move a coordinate beyond the others' values.

Source: Yin et al. 2018, algorithm 1 (option I), https://arxiv.org/abs/1803.01498
"""

from dataclasses import dataclass

from torch import Tensor

from fedkim_ray.federation.strategies.robust import Robust


@dataclass(frozen=True, slots=True)
class Median(Robust):
    """The middle of the clients, coordinate by coordinate."""

    @property
    def min_updates(self) -> int:
        """3: the median of two is their mean, which either can move anywhere."""
        return 3

    def combine(self, deltas_KN: Tensor) -> Tensor:
        """Return the median over clients, (N,)."""
        K, ordered_KN = len(deltas_KN), deltas_KN.sort(0).values
        return (ordered_KN[(K - 1) // 2] + ordered_KN[K // 2]) / 2
