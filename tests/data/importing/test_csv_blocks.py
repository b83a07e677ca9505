"""CSV in blocks: rows stay whole, whatever the blocks' size, and nothing reads on alone."""

import csv
import io
import threading

import pyarrow as pa
import pytest

from fedkim_ray.data.importing import csv_blocks
from fedkim_ray.data.importing.csv_blocks import UnreadableRowError, csv_tables

TEXT = {"a": pa.string(), "b": pa.string()}


def rows_of(text: str, block_bytes: int, **fields: object) -> list[tuple[str, ...]]:
    read = io.BytesIO(text.encode()).read
    tables = csv_tables(read, TEXT, block_bytes=block_bytes, **fields)  # type: ignore[arg-type]
    return [tuple(row.values()) for table in tables for row in table.to_pylist()]


@pytest.mark.parametrize("block_bytes", [1, 2, 7, 64, 1 << 20])
def test_blocks_cut_no_row(block_bytes: int) -> None:
    rows = [("1", "plain"), ("2", "two\nlines"), ("a,b", 'a "quoted" word'), ("", "5")]
    sink = io.StringIO()
    csv.writer(sink).writerows([("b", "a", "c"), *((b, a, "x\ny") for a, b in rows)])
    assert rows_of(sink.getvalue(), block_bytes, newlines_in_values=True) == rows


@pytest.mark.parametrize("block_bytes", [4, 11, 1 << 20])
def test_a_quote_within_a_plain_value_opens_nothing(block_bytes: int) -> None:
    text = 'a;b\n5\'11";x\n"y\nz";6\'\n'
    found = rows_of(text, block_bytes, delimiter=";", newlines_in_values=True)
    assert found == [("5'11\"", "x"), ("y\nz", "6'")]


def test_lines_that_end_as_on_old_macintoshes_are_refused_and_not_taken_for_a_header() -> None:
    with pytest.raises(UnreadableRowError):
        rows_of("a,b\r1,0\r2,1\r", 64)


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_table_without_rows_has_its_columns(end: str) -> None:
    (table,) = csv_tables(io.BytesIO(f"b,a{end}".encode()).read, TEXT, block_bytes=2)
    assert (table.column_names, table.num_rows) == (["a", "b"], 0)


@pytest.mark.parametrize("block_bytes", [5, 1 << 20])
def test_a_bad_row_is_numbered_over_blocks(block_bytes: int) -> None:
    text = "a,b\n" + "1,2\n" * 20 + "1,2,3\n"
    with pytest.raises(UnreadableRowError) as caught:
        rows_of(text, block_bytes)
    assert caught.value.row == 21


def test_a_quote_that_is_never_closed_does_not_gather_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(csv_blocks, "MAX_ROW_BYTES", 100)
    text = 'a,b\n"1,2\n' + "1,2\n" * 100
    with pytest.raises(UnreadableRowError):
        rows_of(text, 8, newlines_in_values=True)


def test_a_column_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(pa.ArrowKeyError):
        rows_of("a,c\n1,2\n", 64)


def test_only_the_callers_thread_reads_and_no_block_ahead() -> None:
    """An import that stops in the middle leaves no thread that still reads its remote file."""
    readers, blocks = set(), 0

    def read(size: int) -> bytes:
        nonlocal blocks
        readers.add(threading.current_thread())
        blocks += 1
        return b"a,b\n" + b"1,2\n" * 15

    tables = csv_tables(read, TEXT, block_bytes=64)
    assert next(tables).num_rows == 15
    assert (readers, blocks) == ({threading.current_thread()}, 1)
