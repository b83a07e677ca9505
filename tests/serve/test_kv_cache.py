"""Rows joining and leaving a cache, in numbers that can be read off."""

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from serve import kv_cache
from serve.kv_cache import join_caches, keep_rows


def cache_of(*columns: float) -> DynamicCache:
    """A cache of one layer, row and head: its keys are ``columns``, its values minus those."""
    cache = DynamicCache()
    keys = torch.tensor(columns)[None, None, :, None]
    cache.update(keys, -keys, 0)
    return cache


def rows(cache: DynamicCache) -> Tensor:
    torch.testing.assert_close(cache.layers[0].values, -cache.layers[0].keys)
    keys: Tensor = cache.layers[0].keys[:, 0, :, 0]
    return keys


def test_a_row_joins_with_its_last_column_under_the_others_last() -> None:
    for first, second in (((1.0, 2.0, 3.0), (9.0,)), ((9.0,), (1.0, 2.0, 3.0))):
        running = cache_of(*first)
        join_caches(running, cache_of(*second))
        expected = [[1.0, 2.0, 3.0], [0.0, 0.0, 9.0]]
        assert rows(running).tolist() == (expected if len(first) == 3 else expected[::-1])


def test_where_a_layer_cannot_join_none_has(monkeypatch: pytest.MonkeyPatch) -> None:
    running, joining = cache_of(1.0, 2.0), cache_of(7.0, 8.0, 9.0)
    below = kv_cache._below

    def full_at_values(upper: Tensor, lower: Tensor, length: int) -> Tensor:
        if (lower < 0).any():
            raise MemoryError
        return below(upper, lower, length)

    monkeypatch.setattr(kv_cache, "_below", full_at_values)
    with pytest.raises(MemoryError):
        join_caches(running, joining)
    assert rows(running).tolist() == [[1.0, 2.0]]


def test_a_row_leaves_with_the_columns_that_it_alone_had() -> None:
    running = cache_of(1.0, 2.0, 3.0)
    join_caches(running, cache_of(8.0, 9.0))
    keep_rows(running, [1], first_column=1)
    assert rows(running).tolist() == [[8.0, 9.0]]
