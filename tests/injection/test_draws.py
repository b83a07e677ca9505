"""Batches are a pure function of seed and step."""

from collections import Counter
from itertools import islice

from fedkim_ray.config import MAX_SEED
from fedkim_ray.injection.draws import draw_batches

SIZES = {"a": 3, "b": 100}


def test_tasks_are_equal_by_default_whatever_their_sizes() -> None:
    for batch in islice(draw_batches(SIZES, {}, 8, seed=0), 5):
        assert Counter(d.task for d in batch) == {"a": 4, "b": 4}


def test_weights_shift_the_shares_exactly() -> None:
    drawn = [
        d.task for batch in islice(draw_batches(SIZES, {"b": 3.0}, 8, seed=0), 5) for d in batch
    ]
    assert Counter(drawn) == {"a": 10, "b": 30}


def test_a_task_is_walked_through_in_whole_epochs() -> None:
    batches = islice(draw_batches(SIZES, {}, 6, seed=0), 4)
    drawn = [d.index for batch in batches for d in batch if d.task == "a"]
    assert len(drawn) == 12
    for epoch in range(4):
        assert sorted(drawn[3 * epoch : 3 * epoch + 3]) == [0, 1, 2]


def test_the_largest_seed_of_a_recipe_draws_too() -> None:
    (batch,) = islice(draw_batches({"a": 3}, {}, 3, seed=MAX_SEED), 1)
    assert sorted(d.index for d in batch) == [0, 1, 2]


def test_a_resumed_run_draws_what_the_uninterrupted_one_draws() -> None:
    whole = list(islice(draw_batches(SIZES, {}, 4, seed=7), 10))
    assert list(islice(draw_batches(SIZES, {}, 4, seed=7, first_step=6), 4)) == whole[6:]
    assert list(islice(draw_batches(SIZES, {}, 4, seed=8), 10)) != whole
