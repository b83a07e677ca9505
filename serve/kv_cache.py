"""Rows that enter and leave a transformers KV cache between two decoding steps.

All rows end at the same column, because sequences are padded on the left: a row joins by padding
the shorter side in front, and leaves by taking the others' rows and dropping the columns in front
that are padding for all of them.

Shape letters: B rows, H key-value heads, L columns, D head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache


def new_cache() -> DynamicCache:
    """Return an empty cache that keeps every column, whatever window the model attends over."""
    return DynamicCache()


def pad_front(x: Tensor, num: int, dim: int) -> Tensor:
    """Return ``x`` with ``num`` zeros in front along ``dim`` (counted from the end, -1 or -2)."""
    if num == 0:
        return x
    return F.pad(x, (num, 0) if dim == -1 else (0, 0, num, 0))


def join_caches(running: DynamicCache, joining: DynamicCache) -> None:
    """Append the rows of ``joining`` below those of ``running``, in place; wholly or not at all.

    Padding is zeros: attention gives masked columns the weight 0, and 0 times a stale infinity
    would not be 0.
    """
    num_rows, before = running.layers[0].keys.shape[0], running.get_seq_length()
    length = max(before, joining.get_seq_length())
    try:
        for ours, theirs in zip(running.layers, joining.layers, strict=True):
            ours.keys = _below(ours.keys, theirs.keys, length)
            ours.values = _below(ours.values, theirs.values, length)
    except Exception:  # most likely there is no memory for a layer: what has joined leaves again
        for layer in running.layers:
            layer.keys = layer.keys[:num_rows, :, -before:]
            layer.values = layer.values[:num_rows, :, -before:]
        raise


def keep_rows(cache: DynamicCache, rows: Sequence[int], first_column: int) -> None:
    """Keep some rows and the columns from ``first_column`` on, in place."""
    index = torch.tensor(rows, dtype=torch.long, device=cache.layers[0].keys.device)
    for layer in cache.layers:
        layer.keys = layer.keys[index, :, first_column:].contiguous()
        layer.values = layer.values[index, :, first_column:].contiguous()


def _below(upper_BHLD: Tensor, lower_BHLD: Tensor, length: int) -> Tensor:
    padded = [pad_front(x, length - x.shape[-2], -2) for x in (upper_BHLD, lower_BHLD)]
    return torch.cat(padded)
