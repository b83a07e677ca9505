"""Bootstrap intervals, resampled by subject.

    draw U subjects of U with replacement; an answer weighs as often as its subject was drawn
    the interval holds the middle 95 % of the metric over S such draws

Answers of one subject resemble each other, so subjects are drawn and not answers. A metric takes
all draws at once as weights, and the point estimate is the same function at weights of one.

Shape letters: S draws, N answers, U subjects.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3 (percentile
intervals); cluster resampling as in Davison and Hinkley 1997, section 3.8.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from fedkim_ray.types import Frozen

Metrics = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""From weights (S, N) to a value (S,) for each metric; NaN where it is undefined."""
LEVEL_PERCENT = 95.0
MIN_SUBJECTS = 10
"""Groups with fewer are not scored, and a comparison on fewer is not decided."""
ONE_SUBJECT = "one subject: no interval"
MAX_ENTRIES = 1 << 21
"""Weights held at once; 16 MB of float64."""


class Estimate(Frozen):
    """A metric on these answers, with the range that other subjects might have given."""

    value: float | None
    """None where the metric is undefined; ``note`` says why."""
    low: float | None = None
    high: float | None = None
    note: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def side(self) -> int:
        """1 or -1 for a difference whose interval lies above or below 0, and 0 where it holds 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    def signed(self) -> str:
        """Return a difference with its sign and interval; the reason where it has none."""
        if self.value is None or self.low is None or self.high is None:
            return self.note or "-"
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def draw_weights(subject_ids: Sequence[str], num_draws: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield weights (some draws, N): how often each answer's subject was drawn.

    The draws depend on the subjects and the seed alone, so two models that answered the same
    rows meet the same draws: comparisons are paired.
    """
    subjects, subject_of_N = np.unique(np.asarray(subject_ids, dtype=str), return_inverse=True)
    num_subjects = len(subjects)
    rng = np.random.default_rng(seed)
    step = max(1, MAX_ENTRIES // max(num_subjects, len(subject_of_N)))
    share_U = np.full(num_subjects, 1.0 / num_subjects)
    for start in range(0, num_draws, step):
        size = min(step, num_draws - start)
        times_SU = rng.multinomial(num_subjects, share_U, size=size)
        yield times_SU[:, subject_of_N].astype(float)


def resampled(
    metrics: Metrics, subject_ids: Sequence[str], num_draws: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return each metric, (1 + S,): on all subjects first, then in each draw."""
    whole, draws = np.ones((1, len(subject_ids))), draw_weights(subject_ids, num_draws, seed)
    parts = [metrics(whole), *(metrics(weights) for weights in draws)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def estimate(
    metrics: Metrics,
    subject_ids: Sequence[str],
    num_draws: int,
    seed: int = 0,
    why_undefined: Mapping[str, str] | None = None,
) -> dict[str, Estimate]:
    """Return each metric with its bootstrap interval.

    Args:
        metrics: What to compute, vectorised over draws.
        subject_ids: The subject of each answer, N of them, at least one.
        num_draws: S.
        seed: Seed of the draws.
        why_undefined: For a metric that may be undefined on all answers, the reason to give.
    """
    reasons, num_subjects = why_undefined or {}, len(set(subject_ids))
    return {
        name: summary(float(values[0]), values[1:], num_subjects, reasons.get(name, ""))
        for name, values in resampled(metrics, subject_ids, num_draws, seed).items()
    }


def summary(
    value: float, drawn_S: np.ndarray, num_subjects: int, why_undefined: str = ""
) -> Estimate:
    """Return a point estimate with the middle of what its draws gave, (S,).

    Draws of one subject are all alike: they would make an interval without width.
    """
    if np.isnan(value):
        return Estimate(value=None, note=why_undefined or "undefined on these answers")
    if num_subjects == 1:
        return Estimate(value=value, note=ONE_SUBJECT)
    known = drawn_S[~np.isnan(drawn_S)]
    if len(known) == 0:
        return Estimate(value=value, note="no interval: undefined in every bootstrap draw")
    tail = (100.0 - LEVEL_PERCENT) / 2
    low, high = np.percentile(known, [tail, 100.0 - tail])
    lost = len(drawn_S) - len(known)
    note = f"interval without {lost} of {len(drawn_S)} draws, where undefined" if lost else ""
    return Estimate(value=value, low=float(low), high=float(high), note=note)
