"""Divide a large table by subject, so that each part fits into memory with all of its subjects.

For ``Importer.prepare``: a hospital's table is sorted by time or not at all, while an example needs
every row of one patient. One pass, in the memory of a few batches.
"""

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.importing.part_files import PartFiles, flush_above
from fedkim_ray.data.whole_numbers import whole_number
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder

BATCH_ROWS = 65_536
BUCKET_BYTES = 32 << 20
"""Aim for this much of a source's files in one bucket."""
MAX_BUCKETS = 512
"""Each is an open file while a table is divided."""
WAITING_BYTES = 32 << 20
"""Rows of all buckets together that may wait in memory for a full row group."""


def num_buckets_for(size_bytes: int) -> int:
    """Return into how many parts to divide a source of this size."""
    return min(max(1, -(-size_bytes // BUCKET_BYTES)), MAX_BUCKETS)


def bucket_of(keys: pa.Array, num_buckets: int) -> np.ndarray:
    """Return each key's bucket, (N,) int, by its text without blanks around it, 17.0 as 17."""
    encoded = pc.dictionary_encode(pc.cast(keys, pa.string()))
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    texts = [*(whole_number(key.strip()) for key in encoded.dictionary.to_pylist()), ""]
    hashes = np.array([zlib.crc32(text.encode()) % num_buckets for text in texts])
    codes = pc.fill_null(encoded.indices, len(texts) - 1).to_numpy()  # null: as an empty text
    buckets: np.ndarray = hashes[codes]
    return buckets


def fill_buckets(
    batches: Iterable[pa.Table], key: str, num_buckets: int, scratch: Path, name: str
) -> None:
    """Write a table's rows to ``<scratch>/<bucket>/<name>-*.parquet``, by the hash of ``key``.

    A marker is written last: without it ``read_bucket`` refuses the table.
    """
    folders = [Folder.at(scratch / f"{bucket:04d}") for bucket in range(num_buckets)]
    parts = [PartFiles(folder, name, group_rows=BATCH_ROWS) for folder in folders]
    for table in batches:
        buckets = bucket_of(table[key], num_buckets)
        for bucket in np.unique(buckets):
            parts[bucket].add(table.filter(pa.array(buckets == bucket)))
        flush_above(WAITING_BYTES, parts)
    for part in parts:
        part.close()
    mark_whole(scratch, name)


def mark_whole(scratch: Path, name: str) -> None:
    """Note that all buckets of a table are written."""
    _marker(scratch, name).touch()


def _marker(scratch: Path, name: str) -> Path:
    return scratch / f"{name}.whole"


def read_bucket(scratch: Path, bucket: int, name: str, schema: pa.Schema) -> pa.Table:
    """Return a bucket's rows, in the source's order; none where no row fell into it.

    Raises:
        DataError: the buckets are gone, which is not to be taken for a table without rows.
    """
    if not _marker(scratch, name).exists():
        raise DataError(
            f"The divided table {name!r} is gone from {str(scratch)!r}.",
            "What an import divides stays there until the import is whole.",
            "Import again; leave the scratch folder alone meanwhile.",
        )
    paths = sorted((scratch / f"{bucket:04d}").glob(f"{name}-*.parquet"))
    tables = [pq.read_table(path, columns=schema.names) for path in paths]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def parquet_batches(files: SourceFiles, name: str, columns: list[str]) -> Iterator[pa.Table]:
    """Yield a Parquet table's columns in batches, read in the caller's own thread."""
    path = files.folder.full(files.safe(name))
    with files.folder.fs.open(path, "rb") as raw, pq.ParquetFile(raw) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
            if batch.num_rows:
                yield pa.Table.from_batches([batch])
