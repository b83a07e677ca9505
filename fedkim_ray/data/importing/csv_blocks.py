"""CSV text of any size as tables, block by block, read and parsed in the caller's own thread.

Arrow's streaming reader reads up to 32 blocks ahead in a thread of its own. That memory grows with
the source until all are full; and where the source is a Python file, as every remote one is, the
thread needs the interpreter even after its reader was dropped: an import that stopped early could
hang, or take the process down with it. Here one block is in memory, and nothing goes on alone.
"""

import re
from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa
import pyarrow.csv

MAX_ROW_BYTES = 16 << 20
"""Longest row; a quote that is never closed would gather the rest of the file."""


class UnreadableRowError(Exception):
    """A row that is no CSV; for callers to name the file and say what to do."""

    def __init__(self, row: int | None = None, column: str = "") -> None:
        super().__init__(row, column)
        self.row = row
        """1 being the first after the header; None where the parser does not say."""
        self.column = column
        """Of a value that is not of its column's type."""


def csv_tables(
    read: Callable[[int], bytes],
    types: Mapping[str, pa.DataType],
    *,
    block_bytes: int,
    delimiter: str = ",",
    newlines_in_values: bool = False,
    null_values: tuple[str, ...] | None = None,
) -> Iterator[pa.Table]:
    """Yield some columns of a CSV text, as a table of one chunk a block.

    Args:
        read: Returns at most so many bytes of the text; none at its end.
        types: Columns to parse, and as what.
        block_bytes: Bytes that are read at a time.
        delimiter: Between values.
        newlines_in_values: Whether a quoted value may go over several lines.
        null_values: Texts that mean that there is no value; None takes texts as they are.

    Raises:
        UnreadableRowError: a row has more or fewer values than the header, or one of another type.
        pyarrow.ArrowKeyError: a column is not there.
    """
    converting = pyarrow.csv.ConvertOptions(
        include_columns=list(types),
        column_types=dict(types),
        strings_can_be_null=null_values is not None,
        null_values=list(null_values) if null_values is not None else None,
    )
    parsing = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=newlines_in_values)
    quoted = _quoted_values(delimiter) if newlines_in_values else None
    header: list[str] | None = None
    rows_before = 0
    for block in _whole_rows(read, block_bytes, quoted):
        if header is None:
            header, block = _split_header(block, parsing)
        if not block:
            yield pa.schema(types.items()).empty_table()
            continue
        # Without threads, for then the parser knows the row's number.
        reading = pyarrow.csv.ReadOptions(
            use_threads=False, column_names=header, block_size=len(block) + 1
        )
        try:
            table = pyarrow.csv.read_csv(pa.BufferReader(block), reading, parsing, converting)
        except pa.ArrowInvalid as error:
            raise _unreadable(str(error), rows_before, header) from None
        yield table
        rows_before += table.num_rows


def _unreadable(message: str, rows_before: int, header: list[str]) -> UnreadableRowError:
    """Keep row and column of a parser's message and not the values in it."""
    row, column = re.search(r"Row #(\d+)", message), re.search(r"CSV column #(\d+)", message)
    return UnreadableRowError(
        rows_before + int(row[1]) if row else None, header[int(column[1])] if column else ""
    )


def _split_header(block: bytes, parsing: pyarrow.csv.ParseOptions) -> tuple[list[str], bytes]:
    """Return the columns' names, and the block from the next line on."""
    if b"\n" not in block and b"\r" in block.rstrip(b"\r"):  # lines of old Macintosh files
        raise UnreadableRowError(1)
    line, _, rest = block.removeprefix(b"\xef\xbb\xbf").partition(b"\n")
    names = pyarrow.csv.read_csv(pa.BufferReader(line + b"\n"), parse_options=parsing).column_names
    return list(names), rest


def _whole_rows(
    read: Callable[[int], bytes], block_bytes: int, quoted: re.Pattern[bytes] | None
) -> Iterator[bytes]:
    """Yield the text in pieces that end where a row ends."""
    rest = b""
    while more := read(block_bytes):
        block = rest + more
        end = _end_of_rows(block, quoted)
        if end:
            yield block[:end]
        rest = block[end:]
        if len(rest) > MAX_ROW_BYTES:
            raise UnreadableRowError
    if rest:
        yield rest


def _quoted_values(delimiter: str) -> re.Pattern[bytes]:
    """Match values in quotes; as for Arrow, a quote within a plain value is a plain character."""
    before = re.escape(delimiter).encode()
    return re.compile(rb"(?:\A|(?<=[\r\n" + before + rb']))"[^"]*(?:""[^"]*)*("|\Z)')


def _end_of_rows(block: bytes, quoted: re.Pattern[bytes] | None) -> int:
    """Return where the last whole row ends, its newline included; 0 where none does."""
    end = block.rfind(b"\n") + 1
    if quoted is None or b'"' not in block:
        return end
    for value in reversed(list(quoted.finditer(block))):
        if value.start() >= end:
            continue
        if value.end() < end:
            return end
        end = block.rfind(b"\n", 0, value.start()) + 1
    return end
