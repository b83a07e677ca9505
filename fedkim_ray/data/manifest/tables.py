"""CSV, JSONL and Parquet tables of any size as batches of text columns, with their line numbers."""

import difflib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from gzip import BadGzipFile
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fedkim_ray.data.importing.buckets import BATCH_ROWS, parquet_batches
from fedkim_ray.data.importing.csv_blocks import UnreadableRowError, csv_tables
from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.importing.layout import UNREADABLE, columns_of_file, sniff_delimiter
from fedkim_ray.errors import DataError

LINE = "__line"
"""Column with the row's number, 1 being the first after the header."""
KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
BLOCK_BYTES = 1 << 20
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""Texts that mean that there is no value."""


def text_batches(files: SourceFiles, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield some columns of a table as text, with ``LINE``.

    Raises:
        DataError: the table is of another kind, lacks a column, or cannot be read at a line.
    """
    require_columns(files, name, {column: column for column in columns})
    line = 1
    with _readable(files, name):
        for table in _batches(files, name, list(dict.fromkeys(columns))):
            lines = pa.array(range(line, line + table.num_rows), pa.int64())
            yield _as_text(name, table).append_column(LINE, lines)
            line += table.num_rows


@contextmanager
def _readable(files: SourceFiles, name: str) -> Iterator[None]:
    """Say which table is none, and nothing of what is in it; a server's silence is another error.

    Raises:
        DataError: as said.
    """
    try:
        yield
    except UNREADABLE as error:
        of_the_file = not isinstance(error, OSError) or isinstance(error, BadGzipFile)
        if not of_the_file and not files.folder.is_local:
            raise
        raise DataError(
            f"{name!r} cannot be read as a table.",
            "It is whole: CSV or JSONL in UTF-8, with the columns' names in the first line, or "
            "Parquet.",
            "Export the table again.",
        ) from None


def require_columns(files: SourceFiles, name: str, wanted: dict[str, str]) -> None:
    """Refuse a table that lacks a column, naming the one that may be meant.

    Raises:
        DataError: as said.
    """
    plain = name.removesuffix(".gz")
    if not plain.endswith(KINDS):
        raise DataError(
            f"{name!r} is of a kind that is not read.",
            f"Tables are {', '.join(KINDS)}, text also as .gz.",
            "Export the table again.",
        )
    with _readable(files, name):
        present = columns_of_file(files, name)
    for field, column in wanted.items():
        if column not in present:
            close = difflib.get_close_matches(column, present, 1)
            raise DataError(
                f"{name!r} has no column {column!r} (of {field!r} in the mapping).",
                f"Its columns are {', '.join(map(repr, present[:40]))}.",
                f"Did you mean {close[0]!r}?" if close else "Correct the mapping.",
            )


def _batches(files: SourceFiles, name: str, columns: list[str]) -> Iterator[pa.Table]:
    plain = name.removesuffix(".gz")
    if plain.endswith(".parquet"):
        return parquet_batches(files, name, columns)
    if plain.endswith(".jsonl"):
        return _json_lines(files, name, columns)
    return _csv(files, name, columns)


def _csv(files: SourceFiles, name: str, columns: list[str]) -> Iterator[pa.Table]:
    with files.open(name) as head:
        delimiter = sniff_delimiter(head.read(4096))
    types = dict.fromkeys(columns, pa.string())
    try:
        with files.open(name) as raw:
            yield from csv_tables(
                raw.read,
                types,
                block_bytes=BLOCK_BYTES,
                delimiter=delimiter,
                newlines_in_values=True,
            )
    except UnreadableRowError as error:
        raise _unreadable(name, error.row) from None


def _unreadable(name: str, row: int | None) -> DataError:
    """Name the row and not what is in it."""
    return DataError(
        f"{name!r} cannot be read{f' at row {row}' if row else ''}.",
        "Every row ends with a line feed and has as many values as the header, in UTF-8, quoted "
        "where a value has the delimiter in it.",
        "Export the table again, or correct the row.",
    )


def _json_lines(files: SourceFiles, name: str, columns: list[str]) -> Iterator[pa.Table]:
    rows: list[dict[str, Any]] = []
    with files.open(name) as raw:
        for number, line in enumerate(raw, 1):
            try:
                row = json.loads(line)
                rows.append({column: _plain(row.get(column)) for column in columns})
            except (ValueError, AttributeError):
                raise DataError(
                    f"{name!r} cannot be read at row {number}.",
                    "Every line is one JSON object of plain values.",
                    "Correct the row.",
                ) from None
            if len(rows) == BATCH_ROWS:
                yield _text_table(rows, columns)
                rows = []
    if rows:
        yield _text_table(rows, columns)


def _plain(value: Any) -> str | None:
    if isinstance(value, dict | list):
        raise ValueError
    return None if value is None else str(value)


def _text_table(rows: list[dict[str, Any]], columns: list[str]) -> pa.Table:
    return pa.Table.from_pylist(rows, pa.schema([(column, pa.string()) for column in columns]))


def _as_text(name: str, table: pa.Table) -> pa.Table:
    columns = []
    for field in table.schema:
        try:
            columns.append(_text_of(table[field.name]))
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            raise DataError(
                f"{name!r}, column {field.name!r} is of type {field.type}.",
                "Columns hold plain values: text, numbers, dates.",
                "Flatten the column.",
            ) from None
    return pa.table(columns, names=table.column_names)


def _text_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values as text; whole floats without a point or an exponent."""
    texts = pc.cast(column, pa.string())
    if not pa.types.is_floating(column.type):
        return texts
    is_whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), 2.0**53))
    whole = pc.cast(pc.if_else(is_whole, column, None), pa.int64())
    return pc.coalesce(pc.cast(whole, pa.string()), texts)


def present(text: str | None) -> str:
    """Return a cell's text without the blanks around it; empty where it says that it is missing."""
    plain = (text or "").strip()
    return "" if plain in MISSING else plain
