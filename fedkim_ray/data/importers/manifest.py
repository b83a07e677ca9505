"""A hospital's own data: a table with one row an example, whose columns a YAML file explains.

Images may be PNG, JPEG or DICOM files; electrocardiograms WFDB, DICOM waveform, CSV or NPY; time
series columns of the table itself, or a long or wide table of their own. Everything lies under the
source folder. ``fedkim data import manifest --explain`` prints a commented mapping.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedkim_ray.data.importing.buckets import (
    fill_buckets,
    mark_whole,
    num_buckets_for,
    read_bucket,
)
from fedkim_ray.data.importing.contract import (
    Expected,
    Importer,
    Item,
    LeftOut,
    Rejection,
    Row,
    attempt,
)
from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.importing.part_files import PartFiles
from fedkim_ray.data.manifest.mapping import Fixed, SeriesTable, TableMapping
from fedkim_ray.data.manifest.series import from_own_columns, from_table, rows_by_key
from fedkim_ray.data.manifest.tables import LINE, present, require_columns, text_batches
from fedkim_ray.data.readers.images import read_image
from fedkim_ray.data.readers.recordings import Recording
from fedkim_ray.data.readers.signal_files import SignalFacts, read_signal_file
from fedkim_ray.data.reasons import rejected
from fedkim_ray.data.root import Source
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.data.traits import read_age, read_sex
from fedkim_ray.data.whole_numbers import whole_number
from fedkim_ray.errors import RowRejectedError
from fedkim_ray.storage import Folder
from fedkim_ray.types import Frozen, Modality, Task, TaskId

MAIN = "manifest"
GROUP_ROWS = 128
"""Rows of an item: what a unit reads, and an interruption costs."""
DONE = "whole"
Cells: TypeAlias = Mapping[str, Any]
_Tables: TypeAlias = Mapping[Modality, Mapping[str, pa.Table]]
"""The rows of each series' table, by key."""


class ManifestOptions(Frozen):
    """What ``--mapping FILE`` says."""

    mapping: TableMapping


class Manifest(Importer):
    """Rows of a user's own table."""

    name = "manifest"
    title = "your own table"
    licence = "your own"
    reference = ""
    tasks = ()
    items_per_unit = 1
    Options = ManifestOptions
    options: ManifestOptions

    def __init__(self, files: SourceFiles, options: Frozen, scratch: Path) -> None:
        super().__init__(files, options, scratch)
        self.mapping = self.options.mapping
        self.impossible = self.mapping.impossible
        self._loaded: tuple[int, tuple[pa.Table, _Tables]] | None = None

    @property
    def import_name(self) -> str:
        """The mapping's task: tables of several tasks lie beside each other."""
        return self.mapping.task

    def layout(self) -> Sequence[Expected]:
        """Return the manifest and the tables of its series."""
        tables = [self.mapping.table, *(s.table for s in self.mapping.series.values() if s.table)]
        return [Expected(pattern=name) for name in dict.fromkeys(tables)]

    def spec(self) -> DataSpec:
        """Return what the mapping says."""
        return self.mapping.spec()

    def task_table(self) -> Mapping[TaskId, Task]:
        """Return the one task of all rows."""
        return {self.mapping.task: self.mapping.the_task}

    def card_source(self) -> Source:
        """Return the mapping's title and licence."""
        return Source(
            name=self.mapping.title,
            kind=self.mapping.kind,
            licence=self.mapping.licence,
            tasks=(self.mapping.task,),
        )

    def prepare(self) -> None:
        """Bring rows that belong together side by side, each with its line number."""
        mapping = self.mapping
        require_columns(self.files, mapping.table, mapping.columns())
        for modality, series in self._tables().items():
            for column in series.columns:
                require_columns(self.files, series.table, {f"series.{modality}": column})
        if (self.scratch / DONE).exists():
            return
        self._prepare_manifest()
        for modality, series in self._tables().items():
            batches = text_batches(self.files, series.table, series.columns)
            fill_buckets(batches, series.key, self._num_buckets(), self.scratch, modality)
        (self.scratch / DONE).touch()

    def _prepare_manifest(self) -> None:
        batches = text_batches(
            self.files, self.mapping.table, list(self.mapping.columns().values())
        )
        if tables := self._tables():
            key = next(iter(tables.values())).key
            fill_buckets(batches, key, self._num_buckets(), self.scratch, MAIN)
            return
        rows = PartFiles(Folder.at(self.scratch / "0000"), MAIN, GROUP_ROWS)
        for batch in batches:
            for start in range(0, batch.num_rows, GROUP_ROWS):
                rows.add(batch.slice(start, GROUP_ROWS))
        rows.close()
        mark_whole(self.scratch, MAIN)

    def _tables(self) -> dict[Modality, SeriesTable]:
        """Return the series that have a table of their own."""
        return {m: series for m, series in self.mapping.series.items() if series.table}

    def _num_buckets(self) -> int:
        folder = self.files.folder
        names = {self.mapping.table, *(series.table for series in self._tables().values())}
        return num_buckets_for(sum(folder.fs.size(folder.full(name)) for name in names))

    def items(self) -> list[Item]:
        """Return bucket and first row of every stretch of ``GROUP_ROWS`` rows."""
        items: list[Item] = []
        for folder in sorted(self.scratch.glob("[0-9]*")):
            paths = folder.glob(f"{MAIN}-*.parquet")
            num_rows = sum(pq.read_metadata(path).num_rows for path in paths)
            items += [(int(folder.name), start) for start in range(0, num_rows, GROUP_ROWS)]
        return items

    def where(self, item: Item) -> str:
        """Return the table's name: rejections name the line."""
        return self.mapping.table

    def rows(self, item: Item) -> Iterator[Row | LeftOut | Rejection]:
        """Yield the examples of a stretch of rows."""
        assert isinstance(item, tuple)
        bucket, start = (int(part) for part in item)
        manifest, tables = self._load(bucket)
        for cells in manifest.slice(start, GROUP_ROWS).to_pylist():
            yield from attempt(partial(self._row, cells, tables), row=cells[LINE])

    def _row(self, cells: Cells, tables: _Tables) -> Row:
        mapping, line = self.mapping, int(cells[LINE])
        columns = {name: present(cells[column]) for name, column in mapping.columns().items()}
        if not columns["subject"]:
            raise rejected("subject_missing", mapping.subject)
        site = mapping.site.value if isinstance(mapping.site, Fixed) else columns.get("site", "")
        return Row(
            sample=columns.get("sample") or str(line),
            subject=whole_number(columns["subject"]),
            task=mapping.task,
            label=self._label(cells),
            answer=columns.get("answer"),
            question=columns.get("question"),
            text=columns.get("text"),
            image=self._image(columns),
            signal=self._signal(columns),
            series=self._series(cells, tables),
            site=site,
            sex=read_sex(columns.get("sex", "")),
            age_years=read_age(columns.get("age_years", "")),
            line=line,
        )

    def _label(self, cells: Cells) -> int | None:
        label = self.mapping.label_column
        if label is None:
            return None
        text = (cells[label.column] or "").strip()
        # The mapping first: `none` may be one of its words.
        for value, words in enumerate((label.negative, label.positive)):
            if text.lower() in {word.lower() for word in words}:
                return value
        raise rejected("label_unknown" if present(text) else "label_missing", label.column)

    def _image(self, columns: Mapping[str, str]) -> np.ndarray | None:
        name, image = columns.get("image"), self.mapping.image
        if not name or image is None:
            return None
        with _naming(image.column):
            return read_image(self.files.read(name))

    def _signal(self, columns: Mapping[str, str]) -> Recording | None:
        name, signal = columns.get("signal"), self.mapping.signal
        if not name or signal is None:
            return None
        facts = None
        if signal.file:
            facts = SignalFacts(**signal.file.model_dump())
        with _naming(signal.column):
            return read_signal_file(self.files, name, facts)

    def _series(self, cells: Cells, tables: _Tables) -> dict[Modality, np.ndarray]:
        grids = {}
        for modality, series in self.mapping.series.items():
            if not series.table:
                grids[modality] = from_own_columns(cells, series)
                continue
            key = whole_number(present(cells[series.key]))
            rows = tables[modality].get(key) if key else None
            grids[modality], impossible = from_table(rows, series)
            if impossible and self.impossible == "reject":
                raise rejected("value_impossible", min(impossible))
            self.unused_values.update(impossible)
        return grids

    def _load(self, bucket: int) -> tuple[pa.Table, _Tables]:
        """Return a bucket's rows, and the rows of its series' tables by key."""
        if self._loaded is None or self._loaded[0] != bucket:
            manifest = self._read(bucket, MAIN, list(self.mapping.columns().values()))
            tables = {
                modality: rows_by_key(self._read(bucket, modality, series.columns), series.key)
                for modality, series in self._tables().items()
            }
            self._loaded = bucket, (manifest, tables)
        return self._loaded[1]

    def _read(self, bucket: int, name: str, columns: Sequence[str]) -> pa.Table:
        fields = [(column, pa.string()) for column in dict.fromkeys(columns)]
        return read_bucket(self.scratch, bucket, name, pa.schema([*fields, (LINE, pa.int64())]))


@contextmanager
def _naming(column: str) -> Iterator[None]:
    """Add the column to an error that has none."""
    try:
        yield
    except RowRejectedError as error:
        raise rejected(error.reason, error.column or column) from None


SOURCE = Manifest
