"""Two tables of answers, row by row."""

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from fedkim_ray.errors import DataError
from fedkim_ray.evaluation.answers import ANSWERS
from fedkim_ray.evaluation.bootstrap import Estimate
from fedkim_ray.evaluation.compare import compare, difference_rows, print_differences

LABELS = [0, 1] * 10
RIGHT, WRONG = [0.1, 0.9] * 10, [0.9, 0.1] * 10


def yes_no_table(probability: Sequence[float], labels: Sequence[int] = LABELS) -> pa.Table:
    rows = [
        {
            "sample_id": f"s{i}",
            "subject_id": f"p{i}",
            "task": "covid19",
            "role": "train",
            "kind": "yes_no",
            "label": label,
            "answer": ("No", "Yes")[label],
            "probability_yes": p,
            "said": "Yes" if p > 0.5 else "No",
            "reading": "likelihood",
        }
        for i, (p, label) in enumerate(zip(probability, labels, strict=True))
    ]
    return pa.Table.from_pylist(rows, ANSWERS)


def generated_table(said: Sequence[str]) -> pa.Table:
    rows = [
        {
            "sample_id": f"s{i}",
            "subject_id": f"p{i}",
            "task": "med_vqa",
            "role": "unseen",
            "kind": "generate",
            "answer": "left lung",
            "said": words,
            "reading": "generate",
        }
        for i, words in enumerate(said)
    ]
    return pa.Table.from_pylist(rows, ANSWERS)


def test_right_is_ahead_of_wrong() -> None:
    (d,) = compare(yes_no_table(RIGHT), yes_no_table(WRONG), 50)
    assert (d.value_a, d.value_b, d.difference.value, d.verdict) == (1.0, 0.0, 1.0, "a")
    (d,) = compare(yes_no_table(WRONG), yes_no_table(RIGHT), 50)
    assert (d.difference.value, d.verdict) == (-1.0, "b")


def test_ten_subjects_decide_and_nine_do_not() -> None:
    for num, verdict, said in ((10, "a", 0), (9, "undecided", 1)):
        differences = compare(yes_no_table(RIGHT).slice(0, num), yes_no_table(WRONG), 50)
        assert (differences[0].num_subjects, differences[0].verdict) == (num, verdict)
        sink = io.StringIO()
        print_differences(differences, "fedkim", "base", Console(file=sink, width=160))
        assert sink.getvalue().count("decide nothing: covid19 (9).") == said


def test_rows_are_matched_by_sample_and_not_by_place() -> None:
    table = yes_no_table([i / 20 for i in range(20)])
    turned = table.take(list(reversed(range(20))))
    (d,) = compare(table, turned, 20)
    assert (d.difference.value, d.difference.low, d.difference.high) == (0.0, 0.0, 0.0)


def test_pairing_narrows_the_interval() -> None:
    # b is a with a little noise: apart, each AUROC moves by 0.1; their difference hardly moves.
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 150).tolist()
    a = (rng.random(150) + 0.3 * np.array(labels)) / 2
    b = a + rng.normal(0.0, 0.01, 150)
    tables = [yes_no_table(p.tolist(), labels) for p in (a, b)]
    paired = compare(*tables, 300)[0].difference
    unrelated = yes_no_table(rng.permutation(a).tolist(), labels)
    apart = compare(tables[0], unrelated, 300)[0].difference
    assert width(paired) < 0.3 * width(apart)


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def test_rows_of_one_alone_are_dropped_and_counted() -> None:
    (d,) = compare(yes_no_table(RIGHT), yes_no_table(RIGHT).slice(0, 8), 20)
    assert (d.num_questions, d.num_dropped) == (8, 12)


def test_generated_answers_are_compared_by_token_f1() -> None:
    a, b = generated_table(["left lung"] * 4), generated_table(["left"] * 4)
    (d,) = compare(a, b, 20)
    assert d.metric == "token_f1"
    # One of two right words, nothing wrong: F1 = 2 * 1 / (2 + 1).
    assert d.difference.value == pytest.approx(1 - 2 / 3)


def test_words_have_no_auroc_to_compare() -> None:
    table = yes_no_table(RIGHT)
    place = ANSWERS.get_field_index("probability_yes")
    words = table.set_column(place, "probability_yes", pa.nulls(20, pa.float64()))
    (d,) = compare(table, words, 20)
    assert d.difference.value is None
    assert "no probability" in d.difference.note


def test_other_right_answers_are_refused() -> None:
    with pytest.raises(DataError, match=r"differ in 'label' on questions of task 'covid19'"):
        compare(yes_no_table(RIGHT), yes_no_table(RIGHT, [1, 0] * 10), 20)


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(DataError, match=r"no task in common"):
        compare(yes_no_table(RIGHT), generated_table(["left"]), 20)


def test_terminal_and_json_say_the_same() -> None:
    differences = compare(yes_no_table(RIGHT), yes_no_table(WRONG), 20)
    assert difference_rows(differences)[0]["verdict"] == "a"
    sink = io.StringIO()
    print_differences(differences, "fedkim", "base", Console(file=sink, width=160))
    assert "+1.000 [+1.000, +1.000]" in sink.getvalue()


def test_two_of_one_name_are_told_apart() -> None:
    sink = io.StringIO()
    differences = compare(yes_no_table(WRONG), yes_no_table(RIGHT), 20)
    print_differences(differences, "fedkim", "fedkim", Console(file=sink, width=160))
    assert "fedkim (a) minus fedkim (b)" in sink.getvalue()
    (row,) = [line for line in sink.getvalue().splitlines() if "covid19" in line]
    assert "fedkim (b)" in row  # ahead
    assert "fedkim (a)" not in row
