"""Sample tables read row group by row group: no table is ever whole in memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fedkim_ray.data.schema import DataSpec, check_rows, open_samples, present_columns
from fedkim_ray.storage import Folder


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the rows of a table were read from, for errors to name."""

    num_rows: Mapping[str, int]
    """Of each file, by its path, in the order of reading."""
    rows: Sequence[int] | None = None
    """Those that were read, by their place in all files; all where None."""

    def place(self, row: int) -> str:
        """Return the file that a row of the table came from, and its place there."""
        at = row if self.rows is None else self.rows[row]
        for path, num_rows in self.num_rows.items():
            if at < num_rows:
                return f"{path!r}, row {at}"
            at -= num_rows
        raise IndexError(row)


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


def read_footers(
    folder: Folder, names: Iterable[str], spec: DataSpec
) -> tuple[set[str], dict[str, int]]:
    """Return the columns that any of some sample tables has, and each one's rows by its path.

    Raises:
        DataError: as in ``read_samples``.
    """
    columns, num_rows = set[str](), dict[str, int]()
    for name in names:
        with open_samples(folder, name, spec) as file:
            columns.update(file.schema_arrow.names)
            num_rows[folder.full(name)] = file.metadata.num_rows
    return columns, num_rows
