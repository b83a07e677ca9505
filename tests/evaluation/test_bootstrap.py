"""Draws by subject, and what an interval says."""

import numpy as np
import pytest

from fedkim_ray.evaluation import bootstrap
from fedkim_ray.evaluation.bootstrap import Estimate, draw_weights, estimate

RIGHT_N = np.array([1.0, 1.0, 0.0, 0.0])


def share_right(weights_SN: np.ndarray) -> dict[str, np.ndarray]:
    return {"share": weights_SN @ RIGHT_N / weights_SN.sum(1)}


def test_a_draw_takes_all_answers_of_a_subject_or_none() -> None:
    (weights_SN,) = draw_weights(["a", "b", "a", "b"], 50)
    np.testing.assert_array_equal(weights_SN[:, 0], weights_SN[:, 2])
    # Two subjects are drawn each time, with replacement.
    np.testing.assert_array_equal(weights_SN[:, 0] + weights_SN[:, 1], np.full(50, 2.0))


def test_one_subject_gives_no_interval() -> None:
    # Each draw takes all four answers: their interval would have no width.
    e = estimate(share_right, ["a", "a", "a", "a"], 100)["share"]
    assert e == Estimate(value=0.5, note="one subject: no interval")


def test_two_subjects_that_disagree_leave_everything_open() -> None:
    # a is always right, b always wrong: draws give 0, 1/2 or 1, however many rows there are.
    e = estimate(share_right, ["a", "a", "b", "b"], 1000)["share"]
    assert (e.value, e.low, e.high) == (0.5, 0.0, 1.0)


def test_draws_depend_on_seed_and_subjects_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    subjects = [f"s{i % 7}" for i in range(20)]
    whole = np.concatenate(list(draw_weights(subjects, 30, seed=1)))
    monkeypatch.setattr(bootstrap, "MAX_ENTRIES", 100)
    pieces = list(draw_weights(subjects, 30, seed=1))
    assert len(pieces) == 6
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    assert (next(draw_weights(subjects, 30, seed=2)) != whole[:5]).any()


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        values_N = rng.normal(0.0, 1.0, 60)
        subjects = [str(i) for i in range(60)]

        def mean(weights_SN: np.ndarray, x: np.ndarray = values_N) -> dict[str, np.ndarray]:
            return {"mean": weights_SN @ x / weights_SN.sum(1)}

        e = estimate(mean, subjects, 300, seed=trial)["mean"]
        assert e.low is not None
        assert e.high is not None
        covered += e.low <= 0.0 <= e.high
    assert 180 <= covered <= 199


def test_what_is_undefined_says_so() -> None:
    def never(weights_SN: np.ndarray) -> dict[str, np.ndarray]:
        return {"x": np.full(len(weights_SN), np.nan)}

    assert estimate(never, ["a"], 10, why_undefined={"x": "because"})["x"] == Estimate(
        value=None, note="because"
    )


def test_draws_without_a_value_are_left_out_and_counted() -> None:
    # Undefined where subject b was not drawn: (1/2)^2 of the draws.
    def of_b(weights_SN: np.ndarray) -> dict[str, np.ndarray]:
        drawn = weights_SN[:, 1] > 0
        return {"x": np.where(drawn, 1.0, np.nan)}

    e = estimate(of_b, ["a", "b"], 100)["x"]
    assert (e.value, e.low, e.high) == (1.0, 1.0, 1.0)
    assert "of 100 draws, where undefined" in e.note


def test_an_estimate_reads_as_value_and_interval() -> None:
    assert str(Estimate(value=0.5, low=0.25, high=0.75)) == "0.500 [0.250, 0.750]"
    assert str(Estimate(value=None)) == "-"
