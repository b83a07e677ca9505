"""Parquet files that grow row group by row group, in bounded memory."""

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedkim_ray.storage import Folder

GROUP_ROWS = 256
"""Rows of a row group: the least that is read at a time."""
GROUP_BYTES = 16 << 20
"""A row group ends at this size even with fewer rows."""
FILE_BYTES = 256 << 20
"""A file ends after this size, so that many workers may share a large set."""


class PartFiles:
    """A sample table in one place, written as ``<stem>-00000.parquet`` and so on."""

    def __init__(self, folder: Folder, stem: str, group_rows: int = GROUP_ROWS) -> None:
        self.folder = folder
        self.stem = stem
        self._group_rows = group_rows
        self.names: list[str] = []
        self.num_rows = 0
        self._waiting: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None
        self._sink: Any = None
        self._written_bytes = 0

    @property
    def waiting_bytes(self) -> int:
        """Memory of the rows that are not written yet."""
        return sum(int(table.nbytes) for table in self._waiting)

    def add(self, table: pa.Table) -> None:
        """Append rows; all tables have the same columns."""
        if not table.num_rows:
            return
        self.num_rows += table.num_rows
        self._waiting.append(table)
        waiting = sum(t.num_rows for t in self._waiting)
        if waiting >= self._group_rows or self.waiting_bytes >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits as row groups."""
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting)
        self._waiting = []
        if self._writer is None:
            self._open(table.schema)
        assert self._writer is not None
        self._writer.write_table(table, row_group_size=self._group_rows)
        self._written_bytes += table.nbytes
        if self._written_bytes >= FILE_BYTES:
            self._end_file()

    def close(self) -> None:
        """Write the rest and finish the file."""
        self.flush()
        self._end_file()

    def _open(self, schema: pa.Schema) -> None:
        name = f"{self.stem}-{len(self.names):05d}.parquet"
        self.folder.fs.makedirs(self.folder.path, exist_ok=True)
        self._sink = self.folder.fs.open(self.folder.full(name), "wb")
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd")
        self.names.append(name)

    def _end_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._sink.close()
            self._writer, self._written_bytes = None, 0


def flush_above(limit_bytes: int, files: Collection[PartFiles]) -> None:
    """Write what waits in all of them where it is more than ``limit_bytes`` together."""
    if sum(each.waiting_bytes for each in files) > limit_bytes:
        for each in files:
            each.flush()
