"""Metrics of yes/no answers and of generated ones.

    MCC   = (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN))
    AUROC = P(a positive scores higher than a negative), ties counted half
    ECE   = sum_b n_b / N * |mean label in bin b - mean P(yes) in bin b|, ten equal bins of P(yes)

Every metric takes weights (S, N) and returns (S,), so that one call serves all bootstrap draws.
NaN marks what is undefined: AUROC where all labels are alike, recall without positives.

Shape letters: S draws, N answers, G groups of tied scores.

Source: Matthews 1975; Fawcett 2006, https://doi.org/10.1016/j.patrec.2005.10.010 (AUROC);
Guo et al. 2017, https://arxiv.org/abs/1706.04599 (ECE, here of P(yes) and not of the confidence).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedkim_ray.data.tasks import METRICS
from fedkim_ray.evaluation.bootstrap import Estimate, Metrics, estimate

NUM_BINS = 10
YES_NO, GENERATION = METRICS["yes_no"], METRICS["generate"]
ONE_CLASS = "undefined: every label is the same"
WHY_UNDEFINED = {
    "auroc": ONE_CLASS,
    "recall": "undefined: no label is yes",
    "f1": "undefined: no label and no answer is yes",
}
LOWEST: Mapping[str, float] = {"mcc": -1.0}
"""Least value of the metrics that may lie below 0; the greatest of all is 1."""
NO_PROBABILITY = "undefined: generated words carry no probability"
NAMES_BY_KIND = METRICS
HEADLINE: Mapping[str, Literal["auroc", "token_f1"]] = {"yes_no": "auroc", "generate": "token_f1"}
"""The one metric that stands for a task of each kind wherever tasks or models are compared."""
SHOWN: Mapping[str, tuple[str, ...]] = {
    "yes_no": ("auroc", "accuracy", "f1", "ece"),
    "generate": GENERATION[:3],
}
"""What narrow tables show of a task that names no metrics of its own."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """Weighted counts of yes/no answers, (S,) each."""

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray

    @classmethod
    def count(cls, weights_SN: np.ndarray, label_N: np.ndarray, said_N: np.ndarray) -> "Confusion":
        """Count; ``said`` is 1 for yes and 0 for no."""
        y, p = label_N.astype(float), said_N.astype(float)
        return cls(
            tp=weights_SN @ (y * p),
            fp=weights_SN @ ((1 - y) * p),
            fn=weights_SN @ (y * (1 - p)),
            tn=weights_SN @ ((1 - y) * (1 - p)),
        )

    def metrics(self) -> dict[str, np.ndarray]:
        """Return accuracy, precision, recall, F1 and MCC.

        Precision is 0 where nothing was answered with yes, and MCC is 0 where all labels or all
        answers are alike: such answers tell nothing apart.
        """
        tp, fp, fn, tn = self.tp, self.fp, self.fn, self.tn
        product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        return {
            "accuracy": _ratio(tp + tn, tp + fp + fn + tn),
            "precision": _ratio(tp, tp + fp, otherwise=0.0),
            "recall": _ratio(tp, tp + fn),
            "f1": _ratio(2 * tp, 2 * tp + fp + fn),
            "mcc": _ratio(tp * tn - fp * fn, np.sqrt(product), otherwise=0.0),
        }


def auroc(weights_SN: np.ndarray, label_N: np.ndarray, score_N: np.ndarray) -> np.ndarray:
    """Return the AUROC of each draw, (S,); NaN where a draw has one class only.

    Rows are sorted once and ties gathered once; a draw then is two sums and a cumulative sum.
    """
    order = np.argsort(score_N, kind="stable")
    sorted_N, label_N = score_N[order], label_N[order].astype(float)
    starts_G = np.flatnonzero(np.r_[True, sorted_N[1:] != sorted_N[:-1]])
    weights_SN = weights_SN[:, order]
    positive_SG = np.add.reduceat(weights_SN * label_N, starts_G, axis=1)
    negative_SG = np.add.reduceat(weights_SN * (1 - label_N), starts_G, axis=1)
    below_SG = negative_SG.cumsum(1) - negative_SG / 2
    pairs_S = positive_SG.sum(1) * negative_SG.sum(1)
    return _ratio((positive_SG * below_SG).sum(1), pairs_S)


def expected_calibration_error(
    weights_SN: np.ndarray, label_N: np.ndarray, probability_N: np.ndarray
) -> np.ndarray:
    """Return the expected calibration error of P(yes), (S,), in [0, 1]."""
    gap_NB = np.zeros((len(label_N), NUM_BINS))
    gap_NB[np.arange(len(label_N)), bins_of(probability_N)] = label_N - probability_N
    return _ratio(np.abs(weights_SN @ gap_NB).sum(1), weights_SN.sum(1))


def bins_of(probability_N: np.ndarray) -> np.ndarray:
    """Return the calibration bin of each P(yes), (N,) int; the last one holds 1, too."""
    bin_N: np.ndarray = np.minimum((probability_N * NUM_BINS).astype(int), NUM_BINS - 1)
    return bin_N


def readable(label: Sequence[int] | np.ndarray, said: Sequence[int | None]) -> np.ndarray:
    """Return answers as 0 and 1, (N,); one that was neither becomes the wrong one."""
    return np.array([1 - int(t) if s is None else s for s, t in zip(said, label, strict=True)])


def yes_no_function(
    label: Sequence[int] | np.ndarray,
    said: Sequence[int | None],
    probability_yes: Sequence[float] | np.ndarray | None,
) -> Metrics:
    """Return what computes the metrics of ``YES_NO`` from weights of these answers.

    Args:
        label: 0 or 1.
        said: 1 for yes, 0 for no, None for words that are neither: those count as wrong.
        probability_yes: P(yes); None where words were generated and parsed, which leaves AUROC
            and ECE out.
    """
    y, said_N = np.asarray(label, dtype=int), readable(label, said)
    p = None if probability_yes is None else np.asarray(probability_yes, dtype=float)

    def metrics(weights_SN: np.ndarray) -> Mapping[str, np.ndarray]:
        values = Confusion.count(weights_SN, y, said_N).metrics()
        if p is not None:
            values["auroc"] = auroc(weights_SN, y, p)
            values["ece"] = expected_calibration_error(weights_SN, y, p)
        return values

    return metrics


def named_estimates(
    metrics: Metrics, names: Sequence[str], subject_ids: Sequence[str], num_draws: int
) -> dict[str, Estimate]:
    """Return each of ``names`` with its interval; one that ``metrics`` lacks says why.

    Args:
        metrics: From ``yes_no_function`` or ``TextScores.metrics``.
        names: ``YES_NO`` or ``GENERATION``.
        subject_ids: Whom each question is about.
        num_draws: Bootstrap draws.
    """
    found = estimate(metrics, subject_ids, num_draws, why_undefined=WHY_UNDEFINED)
    absent = Estimate(value=None, note=NO_PROBABILITY)
    return {name: found.get(name, absent) for name in names}


def _ratio(above: np.ndarray, below: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    """Return above / below, and ``otherwise`` where below is 0."""
    possible = below > 0
    quotient: np.ndarray = np.where(possible, above / np.where(possible, below, 1.0), otherwise)
    return quotient
