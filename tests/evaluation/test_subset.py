"""A fixed subset is even over tasks and labels, and the same each time."""

import numpy as np

from fedkim_ray.evaluation.subset import fixed_subset


def num_chosen(sizes: dict[str, int], total: int | None, **shares: float) -> dict[str, int]:
    labels = {task: [None] * size for task, size in sizes.items()}
    return {task: len(rows) for task, rows in fixed_subset(labels, total, shares).items()}


def test_all_rows_where_there_is_no_limit() -> None:
    rows = fixed_subset({"a": [0, 1, 0]}, None)
    assert rows["a"].tolist() == [0, 1, 2]
    assert fixed_subset({"a": [0, 1, 0]}, 3)["a"].tolist() == [0, 1, 2]


def test_tasks_get_equal_shares() -> None:
    assert num_chosen({"a": 100, "b": 900}, 60) == {"a": 30, "b": 30}


def test_what_a_small_task_leaves_goes_to_the_others() -> None:
    assert num_chosen({"a": 10, "b": 100, "c": 100}, 90) == {"a": 10, "b": 40, "c": 40}


def test_nothing_is_left_over() -> None:
    assert sum(num_chosen({"a": 3, "b": 3, "c": 3}, 8).values()) == 8
    assert sum(num_chosen(dict.fromkeys("abcdefghijk", 400) | {"l": 1500}, 2500).values()) == 2500


def test_shares_can_be_weighed() -> None:
    assert num_chosen({"a": 100, "b": 100}, 40, a=3.0, b=1.0) == {"a": 30, "b": 10}


def test_labels_keep_their_balance() -> None:
    # Labels alternate, as in a file written by class in turn: a stride of two would see one class.
    labels = [0, 1] * 50
    rows = fixed_subset({"a": labels}, 50)["a"]
    assert sum(labels[r] for r in rows) == 25
    one_in_ten = [int(i < 40) for i in range(400)]
    rows = fixed_subset({"a": one_in_ten}, 200)["a"]
    assert sum(one_in_ten[r] for r in rows) == 20


def test_rows_are_distinct_sorted_and_spread_over_the_file() -> None:
    rows = fixed_subset({"a": [0, 1] * 500}, 100)["a"]
    assert len(set(rows.tolist())) == 100
    assert (np.diff(rows) > 0).all()
    per_fifth = np.histogram(rows, bins=5, range=(0, 1000))[0]
    assert per_fifth.min() >= 10


def test_the_same_rows_each_time_and_whatever_the_other_tasks() -> None:
    alone = fixed_subset({"a": [0, 1] * 20}, 10)["a"]
    beside = fixed_subset({"a": [0, 1] * 20, "b": [1, 0] * 20}, 20)["a"]
    np.testing.assert_array_equal(alone, beside)
