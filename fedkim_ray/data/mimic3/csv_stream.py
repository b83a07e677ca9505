"""MIMIC-III's tables as shipped, ``NAME.csv.gz``, batch by batch: CHARTEVENTS has 330 million rows.

Only the columns in use are parsed; unpacking and parsing run in Arrow, block by block.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from fedkim_ray.data.importing.csv_blocks import UnreadableRowError, csv_tables
from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.errors import DataError

BLOCK_BYTES = 4 << 20
"""Unpacked; some 40,000 rows of CHARTEVENTS."""
MISSING = ("", "NaN")
_NUMBERS = ("SUBJECT_ID", "HADM_ID", "ICUSTAY_ID", "ITEMID")
_TIMES = ("CHARTTIME", "STARTTIME", "ENDTIME", "INTIME", "OUTTIME")
_FLOATS = ("VALUENUM", "AMOUNT", "RATE")
TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(_NUMBERS, pa.int64()),
    **dict.fromkeys(_TIMES, pa.timestamp("s")),
    **dict.fromkeys(_FLOATS, pa.float64()),
    "HOSPITAL_EXPIRE_FLAG": pa.int64(),
    "ERROR": pa.string(),
    "ISERROR": pa.string(),
}


def csv_batches(
    files: SourceFiles,
    name: str,
    columns: Sequence[str],
    types: dict[str, pa.DataType] | None = None,
) -> Iterator[pa.Table]:
    """Yield some columns of a table.

    Args:
        files: The source.
        name: ``NAME.csv.gz``.
        columns: Their names; text where ``TYPES`` does not know them.
        types: Types that differ from ``TYPES``.

    Raises:
        DataError: the table cannot be read, or a value is not of its column's type; the text holds
            no value.
    """
    known = {**TYPES, **(types or {})}
    wanted = {column: known.get(column, pa.string()) for column in columns}
    try:
        with (
            _open(files, name) as raw,
            pa.input_stream(raw, compression="gzip") as unpacked,
        ):
            yield from csv_tables(
                unpacked.read, wanted, block_bytes=BLOCK_BYTES, null_values=MISSING
            )
    except UnreadableRowError as error:
        column = f", column {error.column!r}" if error.column else ""
        raise DataError(
            f"{name!r} cannot be read at row {error.row}{column}.",
            "Every value is of its column's type, as in MIMIC-III 1.4.",
            "Check its SHA-256 against the owner's list, and download it again.",
        ) from None
    except TimeoutError:  # of a server; nothing is wrong with the file
        raise
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise DataError(
            f"{name!r} cannot be read ({type(error).__name__}).",
            f"It is a whole gzip file of CSV with the columns {', '.join(wanted)}.",
            "Check its SHA-256 against the owner's list, and download it again.",
        ) from None


def _open(files: SourceFiles, name: str) -> Any:
    """Open a file; a local one without Python in between."""
    path = files.folder.full(files.safe(name))
    return pa.OSFile(path) if files.folder.is_local else files.folder.fs.open(path, "rb")
