"""Metrics by hand, and against scikit-learn on random answers."""

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn import metrics as sk

from fedkim_ray.evaluation.bootstrap import Estimate
from fedkim_ray.evaluation.metrics import (
    GENERATION,
    NO_PROBABILITY,
    ONE_CLASS,
    YES_NO,
    auroc,
    expected_calibration_error,
    named_estimates,
    yes_no_function,
)
from fedkim_ray.evaluation.text_scores import TextScores

ONCE = np.ones((1, 4))


def people(num: int) -> list[str]:
    return [f"p{i}" for i in range(num)]


def yes_no_metrics(
    label: Sequence[int] | np.ndarray,
    said: Sequence[int | None],
    probability: Sequence[float] | np.ndarray | None,
    num_draws: int = 10,
) -> dict[str, Estimate]:
    metrics = yes_no_function(label, said, probability)
    return named_estimates(metrics, YES_NO, people(len(said)), num_draws)


def test_auroc_counts_ties_half() -> None:
    # Pairs (positive, negative): .4 > .1, .4 = .4, .8 > .1, .8 > .4: (1 + 1/2 + 1 + 1) / 4.
    value = auroc(ONCE, np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.4, 0.8]))
    assert value.tolist() == [0.875]


def test_a_constant_answer_has_auroc_one_half() -> None:
    assert auroc(ONCE, np.array([0, 1, 0, 1]), np.full(4, 0.3)).tolist() == [0.5]


def test_a_weight_is_a_repetition() -> None:
    label, score = np.array([0, 1, 1, 0]), np.array([0.2, 0.1, 0.9, 0.5])
    weighted = auroc(np.array([[3.0, 2.0, 1.0, 0.0]]), label, score)
    repeated = np.repeat(np.arange(4), [3, 2, 1, 0])
    assert weighted == auroc(np.ones((1, 6)), label[repeated], score[repeated])


def test_ece_is_the_gap_of_each_bin_by_its_share() -> None:
    # Bin .2-.3: labels 0, 1 against .25: gap .25, half the rows. Bin .9-1: 1 against .95: .05.
    label, probability = np.array([0, 1, 1, 1]), np.array([0.25, 0.25, 0.95, 0.95])
    value = expected_calibration_error(ONCE, label, probability)
    np.testing.assert_allclose(value, [0.5 * 0.25 + 0.5 * 0.05])


def test_certain_answers_fall_into_the_last_bin() -> None:
    value = expected_calibration_error(ONCE, np.array([1, 1, 0, 0]), np.array([1.0, 1, 0, 0]))
    assert value.tolist() == [0.0]


def test_confusion_metrics_by_hand() -> None:
    # TP 3, FN 1, TN 2, FP 2: MCC = (3 * 2 - 2 * 1) / sqrt(5 * 4 * 4 * 3).
    label, said = [1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 1, 1]
    found = yes_no_metrics(label, said, None)
    assert found["accuracy"].value == 5 / 8
    assert found["precision"].value == 3 / 5
    assert found["recall"].value == 3 / 4
    assert found["f1"].value == 6 / 9
    assert found["mcc"].value == pytest.approx(4 / np.sqrt(240))


def test_words_that_are_neither_count_as_wrong() -> None:
    found = yes_no_metrics([1, 0], [None, None], None)
    assert found["accuracy"].value == 0.0
    assert found["auroc"].note == NO_PROBABILITY


@pytest.mark.parametrize("seed", range(3))
def test_all_agree_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, 200)
    probability = np.round(rng.random(200) * 0.6 + 0.3 * label, 2)  # rounded: many ties
    said = (probability > 0.5).astype(int)
    found = yes_no_metrics(label, said.tolist(), probability)
    assert tuple(found) == YES_NO
    expected = {
        "accuracy": sk.accuracy_score(label, said),
        "precision": sk.precision_score(label, said),
        "recall": sk.recall_score(label, said),
        "f1": sk.f1_score(label, said),
        "mcc": sk.matthews_corrcoef(label, said),
        "auroc": sk.roc_auc_score(label, probability),
    }
    assert {n: found[n].value for n in expected} == pytest.approx(expected)


def test_bootstrap_equals_scoring_each_resample_by_itself() -> None:
    rng = np.random.default_rng(0)
    label, score = rng.integers(0, 2, 50), np.round(rng.random(50), 1)
    times_SN = rng.multinomial(50, np.full(50, 0.02), size=20)
    by_itself = [
        sk.roc_auc_score(np.repeat(label, times), np.repeat(score, times)) for times in times_SN
    ]
    np.testing.assert_allclose(auroc(times_SN.astype(float), label, score), by_itself)


def test_one_class_has_no_auroc_and_says_so() -> None:
    found = yes_no_metrics([1, 1], [1, 0], [0.9, 0.2])
    assert found["auroc"].value is None
    assert found["auroc"].note == ONE_CLASS
    assert found["recall"].value == 0.5


def test_nobody_said_yes() -> None:
    found = yes_no_metrics([1, 0], [0, 0], [0.2, 0.1])
    assert (found["precision"].value, found["mcc"].value) == (0.0, 0.0)
    assert found["auroc"].value == 1.0


def test_generation_has_all_its_metrics() -> None:
    found = named_estimates(
        TextScores.of(["left lung", "no"], ["left lung", "yes"]).metrics, GENERATION, people(2), 10
    )
    assert tuple(found) == GENERATION
    # BLEU is of the corpus: 2 of 3 words said are right. The others are means over answers.
    assert found["bleu_1"].value == pytest.approx(2 / 3)
    assert {found[n].value for n in GENERATION if n != "bleu_1"} == {0.5}
