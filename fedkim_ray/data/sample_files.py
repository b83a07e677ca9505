"""Sample tables read row group by row group: no table is ever whole in memory."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from fedkim_ray.data.schema import DataSpec, check_rows, open_samples, present_columns
from fedkim_ray.storage import Folder


def stream_samples(
    folder: Folder, name: str, spec: DataSpec, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Yield a sample table row group by row group, each held against the contract.

    Args:
        folder: Where it is.
        name: The file.
        spec: Shapes and units that it must have.
        columns: As in ``read_samples``.

    Raises:
        DataError: as in ``read_samples``.
    """
    first_row = 0
    with open_samples(folder, name, spec) as file:
        for index in range(file.num_row_groups):
            table = file.read_row_group(index, present_columns(file, columns))
            check_rows(folder.full(name), table, first_row)
            first_row += table.num_rows
            yield table


def stream_sample_rows(
    folder: Folder,
    names: Sequence[str],
    spec: DataSpec,
    rows: Sequence[int],
    columns: Sequence[str] | None = None,
) -> Iterator[pa.Table]:
    """Yield some rows of several files end to end, and read no row group without any of them.

    Args:
        folder: Where the files are.
        names: The files, in order.
        spec: Shapes and units that they must have.
        rows: Rows to read, by their place in all files, in rising order.
        columns: As in ``read_samples``.

    Raises:
        DataError: as in ``read_samples``.
    """
    wanted, start = np.asarray(rows, np.int64), 0
    for name in names:
        with open_samples(folder, name, spec) as file:
            first = start
            for index in range(file.num_row_groups):
                stop = start + file.metadata.row_group(index).num_rows
                inside = wanted[(wanted >= start) & (wanted < stop)]
                if len(inside):
                    table = file.read_row_group(index, present_columns(file, columns))
                    check_rows(folder.full(name), table, start - first)
                    yield table.take(pa.array(inside - start))
                start = stop


def column_names(folder: Folder, names: Iterable[str], spec: DataSpec) -> set[str]:
    """Return the columns that any of some sample tables has; reads no row.

    Raises:
        DataError: as in ``read_samples``.
    """
    found: set[str] = set()
    for name in names:
        with open_samples(folder, name, spec) as file:
            found.update(file.schema_arrow.names)
    return found
