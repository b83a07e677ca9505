"""Center and scale of every time-series feature, from public training rows alone.

Sums are kept, not rows, so any number of rows takes the same memory.

Shape letters: N rows, H hours, F features.
"""

from dataclasses import dataclass

import numpy as np

from fedkim_ray.data.schema import FeatureSpec, SeriesSpec

MIN_OBSERVED = 8
"""With fewer public observations a feature's mean and deviation say too little to be used."""


@dataclass(slots=True)
class Moments:
    """Counts, means and sums of squared deviations of one modality's features, (F,) each."""

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def empty(cls, num_features: int) -> "Moments":
        """Return the moments of no rows."""
        return cls(*(np.zeros(num_features) for _ in range(3)))

    def add(self, values_NHF: np.ndarray, seen_NHF: np.ndarray) -> None:
        """Take in further rows.

        Source: Chan et al. 1979, the pairwise update of sums of squares.
        """
        seen = seen_NHF.astype(bool)
        values = np.where(seen, values_NHF, 0.0).astype(np.float64)
        n = seen.sum((0, 1))
        mean = values.sum((0, 1)) / np.maximum(n, 1)
        squares = (np.where(seen, values - mean, 0.0) ** 2).sum((0, 1))
        total = np.maximum(self.count + n, 1)
        delta = mean - self.mean
        self.squares = self.squares + squares + delta**2 * self.count * n / total
        self.mean = self.mean + delta * n / total
        self.count = self.count + n

    def fit(self, spec: SeriesSpec) -> SeriesSpec:
        """Return ``spec`` with these centers and scales.

        A feature with fewer than ``MIN_OBSERVED`` public values, or none that differ, takes a
        sixth of its limits' range as scale: coarse, but it asks nothing of private data.
        """
        features = [self._fit_feature(j, feature) for j, feature in enumerate(spec.features)]
        return SeriesSpec(hours=spec.hours, features=tuple(features))

    def _fit_feature(self, j: int, feature: FeatureSpec) -> FeatureSpec:
        n = self.count[j]
        center = float(self.mean[j]) if n else (feature.low + feature.high) / 2
        scale = float(np.sqrt(self.squares[j] / n)) if n >= MIN_OBSERVED else 0.0
        scale = scale or (feature.high - feature.low) / 6
        update = {"center": float(f"{center:.6g}"), "scale": float(f"{scale:.6g}")}
        return feature.model_copy(update=update)
