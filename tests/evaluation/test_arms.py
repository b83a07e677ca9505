"""Models held against each other over seeds and subjects, by hand."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from fedkim_ray.data.tasks import TASKS
from fedkim_ray.errors import DataError
from fedkim_ray.evaluation.answers import ANSWERS
from fedkim_ray.evaluation.arms import ArmResult, compare_arms, over_seeds

BY_ID = {task.id: task for task in TASKS}
LABELS = [0, 1] * 10
RIGHT, WRONG = [0.1, 0.9] * 10, [0.9, 0.1] * 10


def answers(probability: Sequence[float], task: str = "covid19") -> pa.Table:
    rows = [
        {
            "sample_id": f"s{i:02}",
            "subject_id": f"p{i}",
            "task": task,
            "role": "train",
            "kind": "yes_no",
            "label": label,
            "answer": ("No", "Yes")[label],
            "probability_yes": p,
            "said": "Yes" if p > 0.5 else "No",
            "reading": "likelihood",
        }
        for i, (p, label) in enumerate(zip(probability, LABELS, strict=True))
    ]
    return pa.Table.from_pylist(rows, ANSWERS)


def auroc_of(results: Sequence[ArmResult], arm: str) -> ArmResult:
    return next(r for r in results if (r.arm, r.metric) == (arm, "auroc"))


def test_first_minus_other_with_its_verdict() -> None:
    arms = {"a": {0: answers(RIGHT)}, "b": {0: answers(WRONG)}}
    results = compare_arms(arms, BY_ID, 50)
    a, b = auroc_of(results, "a"), auroc_of(results, "b")
    assert (a.value.value, a.difference, a.num_seeds) == (1.0, None, 1)
    assert b.difference is not None
    assert (b.value.value, b.difference.value, b.verdict) == (0.0, 1.0, "first")


def test_value_is_the_mean_over_seeds_and_its_interval_spans_them() -> None:
    # Seed 0 is always right and seed 1 always wrong: two such runs leave everything open.
    arms = {"a": {0: answers(RIGHT), 1: answers(WRONG)}}
    value = auroc_of(compare_arms(arms, BY_ID, 200), "a").value
    assert (value.value, value.low, value.high) == (0.5, 0.0, 1.0)


def test_arms_are_paired_by_seed() -> None:
    # Each seed moves both alike, so their difference is 0 in every draw.
    arms = {arm: {0: answers(RIGHT), 1: answers(WRONG)} for arm in ("a", "b")}
    b = auroc_of(compare_arms(arms, BY_ID, 50), "b")
    assert b.difference is not None
    assert (b.difference.low, b.difference.high, b.verdict) == (0.0, 0.0, "undecided")


def test_a_reference_without_seeds_stands_beside_each_seed() -> None:
    arms = {"a": {0: answers(RIGHT), 1: answers(RIGHT)}, "reference": {0: answers(WRONG)}}
    reference = auroc_of(compare_arms(arms, BY_ID, 50), "reference")
    assert reference.num_seeds == 1
    assert reference.difference is not None
    assert reference.difference.value == 1.0


def test_rows_may_come_in_any_order() -> None:
    table = answers([i / 20 for i in range(20)])
    arms = {"a": {0: table}, "b": {0: table.take(list(reversed(range(20))))}}
    b = auroc_of(compare_arms(arms, BY_ID, 20), "b")
    assert b.difference is not None
    assert (b.difference.low, b.difference.high) == (0.0, 0.0)


def test_a_task_that_the_first_arm_lacks_has_no_difference() -> None:
    arms = {"a": {0: answers(RIGHT)}, "b": {0: answers(RIGHT, task="lung_opacity")}}
    results = compare_arms(arms, BY_ID, 10)
    assert auroc_of(results, "b").difference is None
    assert auroc_of(results, "b").value.value == 1.0


def test_interval_over_seeds_by_hand() -> None:
    # Values 0, 0, 3, alike in every draw: s^2 / 3 = 1, and t of 2 degrees of freedom is 4.303.
    e = over_seeds(np.array([0.0, 0.0, 3.0]), np.array([[0.0], [0.0], [3.0]]).repeat(9, 1), 40)
    assert (e.value, e.low, e.high) == (
        1.0,
        pytest.approx(-3.303, abs=1e-3),
        pytest.approx(5.303, abs=1e-3),
    )


def test_interval_over_subjects_where_seeds_agree_by_hand() -> None:
    # Draws of 0 and 2 have variance 1; of 101 subjects 100 are free, and their t is 1.984.
    e = over_seeds(np.ones(2), np.array([[0.0, 2.0], [0.0, 2.0]]), 101)
    assert (e.low, e.high) == (pytest.approx(-0.984, abs=1e-3), pytest.approx(2.984, abs=1e-3))


def test_interval_over_three_seeds_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    runs_K = rng.normal(0.0, 1.0, (1000, 3))
    estimates = [over_seeds(value_K, np.repeat(value_K[:, None], 2, 1), 100) for value_K in runs_K]
    assert 930 <= sum(e.low <= 0.0 <= e.high for e in estimates) <= 970


def test_ten_subjects_decide_and_nine_do_not() -> None:
    decided = auroc_of(
        compare_arms({"a": {0: answers(RIGHT)}, "b": {0: answers(WRONG)}}, BY_ID), "b"
    )
    assert decided.model_copy(update={"num_subjects": 10}).verdict == "first"
    assert decided.model_copy(update={"num_subjects": 9}).verdict == "undecided"


def test_other_seeds_are_refused() -> None:
    arms = {
        "a": {0: answers(RIGHT), 1: answers(RIGHT)},
        "b": {0: answers(RIGHT), 2: answers(RIGHT)},
    }
    with pytest.raises(DataError, match=r"'b' was trained with the seeds \[0, 2\]"):
        compare_arms(arms, BY_ID, 10)


def test_other_questions_are_refused() -> None:
    arms = {"a": {0: answers(RIGHT)}, "b": {0: answers(RIGHT).slice(0, 8)}}
    with pytest.raises(DataError, match="differ in 'sample_id' on task 'covid19'"):
        compare_arms(arms, BY_ID, 10)


def test_what_may_be_negative_has_an_interval_around_it() -> None:
    # Always wrong: MCC is -1 for every seed, and 2 away from always right.
    arms = {name: {k: answers(p) for k in range(3)} for name, p in (("a", RIGHT), ("b", WRONG))}
    results = {(r.arm, r.metric): r for r in compare_arms(arms, BY_ID, 50)}
    wrong = results["b", "mcc"]
    assert (wrong.value.value, wrong.value.low, wrong.value.high) == (-1.0, -1.0, -1.0)
    assert wrong.difference is not None
    assert (wrong.difference.low, wrong.difference.high) == (2.0, 2.0)
