"""MIMIC-III's tables as shipped, ``NAME.csv.gz``, batch by batch: CHARTEVENTS has 330 million rows.

Only the columns in use are parsed; unpacking and parsing run in Arrow, block by block.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv

from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.errors import DataError

BLOCK_BYTES = 8 << 20
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
            pa.csv.open_csv(
                unpacked,
                read_options=pa.csv.ReadOptions(block_size=BLOCK_BYTES),
                convert_options=pa.csv.ConvertOptions(
                    include_columns=list(wanted),
                    column_types=wanted,
                    strings_can_be_null=True,
                    null_values=["", "NaN"],
                ),
            ) as reader,
        ):
            for batch in reader:
                yield pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise DataError(
            f"{name!r} cannot be read ({type(error).__name__}).",
            f"It is a whole gzip file of CSV with the columns {', '.join(wanted)}.",
            "Check its SHA-256 against the owner's list, and download it again.",
        ) from None


def _open(files: SourceFiles, name: str) -> Any:
    """Open a file for Arrow's threads: a local one without Python's lock between them."""
    path = files.folder.full(files.safe(name))
    return pa.OSFile(path) if files.folder.is_local else files.folder.fs.open(path, "rb")
