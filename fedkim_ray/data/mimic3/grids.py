"""Hourly grids of a few stays, from their events.

Shape letters: N stays, H hours, F features.
"""

import numpy as np
import pyarrow as pa

from fedkim_ray.data.mimic3.events import INFUSION, MEAN, SUM
from fedkim_ray.data.mimic3.stays import SECONDS


def grid(
    events: pa.Table,
    num_stays: int,
    hours: int,
    num_features: int,
    unrecorded: float = np.nan,
) -> np.ndarray:
    """Return (N, H, F) float, NaN where it is not known how much it was.

    Args:
        events: Of one modality; ``stay`` counts from 0 to before ``num_stays``.
        num_stays: N.
        hours: H; later events are not used.
        num_features: F.
        unrecorded: What a cell without any event has.
    """
    shape = (num_stays, hours, num_features)
    kind = events["kind"].to_numpy()
    cells = np.full(shape, unrecorded)
    unusable = np.zeros(shape, bool)
    for each in (MEAN, SUM, INFUSION):
        stay, feature, second, lasts, value = _columns(events, kind == each)
        if each == INFUSION:
            stay, feature, second, value = _by_hour(stay, feature, second, lasts, value)
        hour = second // SECONDS
        use = (hour >= 0) & (hour < hours)
        cell = np.ravel_multi_index((stay[use], hour[use], feature[use]), shape)
        count = np.bincount(cell, minlength=cells.size).reshape(shape)
        total = np.bincount(cell, value[use], minlength=cells.size).reshape(shape)
        made = total / np.maximum(count, 1) if each == MEAN else total
        cells = np.where(count > 0, made, cells)
        unusable |= np.isnan(total)
    return np.where(unusable, np.nan, cells)


def _columns(events: pa.Table, which: np.ndarray) -> list[np.ndarray]:
    names = ("stay", "feature", "second", "lasts", "value")
    return [events[name].to_numpy()[which].astype(np.float64 if name == "value" else np.int64)
            for name in names]  # fmt: skip


def _by_hour(
    stay: np.ndarray, feature: np.ndarray, second: np.ndarray, lasts: np.ndarray, rate: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Divide infusions at full hours; each part counts by its share of the hour."""
    stop = second + lasts
    first = np.maximum(second, 0) // SECONDS
    parts = np.maximum((stop - 1) // SECONDS - first + 1, 0)
    index = np.repeat(np.arange(len(stay)), parts)
    hour = first[index] + np.arange(len(index)) - np.repeat(np.cumsum(parts) - parts, parts)
    begun = np.maximum(second[index], hour * SECONDS)
    ended = np.minimum(stop[index], (hour + 1) * SECONDS)
    share = (ended - begun) / SECONDS
    return stay[index], feature[index], hour * SECONDS, rate[index] * share
