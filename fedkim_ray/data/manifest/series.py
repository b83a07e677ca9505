"""Hourly grids out of cells of text.

Shape letters: H hours, F features.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedkim_ray.data.manifest.mapping import MappedFeature, SeriesTable
from fedkim_ray.data.manifest.tables import present
from fedkim_ray.data.reasons import rejected
from fedkim_ray.data.units import conversion


def number(text: str | None, column: str) -> float:
    """Return a cell's number, NaN where it is missing.

    Raises:
        RowRejectedError: it is no number, or infinite.
    """
    plain = present(text)
    if not plain:
        return float("nan")
    try:
        value = float(plain)
    except ValueError:
        raise rejected("not_a_number", column) from None
    if not np.isfinite(value):
        raise rejected("not_finite", column)
    return value


def from_own_columns(row: Mapping[str, str | None], series: SeriesTable) -> np.ndarray:
    """Return (1, F): the values that stand in the manifest's row.

    Raises:
        RowRejectedError: a value is no number.
    """
    values = [_scaled(number(row[f.key], f.key), f) for f in series.features]
    return np.array([values])


def from_table(rows: pa.Table | None, series: SeriesTable) -> tuple[np.ndarray, Counter[str]]:
    """Return the mean of each hour's values, and how many are impossible, by feature.

    Means are (H, F), NaN where nothing was measured. An impossible value is no part of a mean: two
    of them, or one among many, may have a possible one. Values before hour 0 or after the last hour
    are no part of the series.

    Args:
        rows: The rows of the series' table that belong to one example; None where there are none.
        series: What they mean.

    Raises:
        RowRejectedError: an hour or value is no number.
    """
    total = np.zeros((series.hours, len(series.features)))
    count = np.zeros_like(total)
    impossible: Counter[str] = Counter()
    for hour, column, value in [] if rows is None else _cells(rows.to_pydict(), series):
        if np.isnan(value) or not 0 <= hour < series.hours:  # nor is NaN an hour
            continue
        feature = series.features[column]
        if not feature.low <= value <= feature.high:
            impossible[feature.name] += 1
            continue
        total[int(hour), column] += value
        count[int(hour), column] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), impossible


def _cells(
    columns: Mapping[str, Sequence[str | None]], series: SeriesTable
) -> list[tuple[float, int, float]]:
    """Return hour, feature and value of every cell."""
    hours = [number(text, series.hour) for text in columns[series.hour]]
    if series.layout == "wide":
        return [
            (hour, j, _scaled(number(text, feature.key), feature))
            for j, feature in enumerate(series.features)
            for hour, text in zip(hours, columns[feature.key], strict=True)
        ]
    index = {feature.key: j for j, feature in enumerate(series.features)}
    named = zip(hours, columns[series.name], columns[series.value], strict=True)
    cells = []
    for hour, name, text in named:
        j = index.get(present(name))
        if j is not None:
            feature = series.features[j]
            cells.append((hour, j, _scaled(number(text, series.value), feature)))
    return cells


def _scaled(value: float, feature: MappedFeature) -> float:
    known = conversion(feature.name, feature.source_unit or feature.unit, feature.unit)
    assert known is not None  # the mapping was refused otherwise
    factor, offset = known
    return factor * value + offset


def rows_by_key(table: pa.Table, key: str) -> dict[str, pa.Table]:
    """Return the rows of each key, in the table's order; rows without a key belong to nobody.

    Keys are as ``whole_number`` writes them.
    """
    if not table.num_rows:
        return {}
    keys = pc.replace_substring_regex(pc.utf8_trim_whitespace(table[key]), r"^(\d+)\.0*$", r"\1")
    encoded = keys.combine_chunks().dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy()
    order = np.argsort(codes, kind="stable")
    ordered, codes = table.take(pa.array(order)), codes[order]
    starts = np.flatnonzero(np.diff(codes, prepend=-2))
    ends = np.append(starts[1:], len(codes))
    names = encoded.dictionary.to_pylist()
    return {
        names[codes[start]]: ordered.slice(start, end - start)
        for start, end in zip(starts, ends, strict=True)
        if codes[start] >= 0 and present(names[codes[start]])
    }
