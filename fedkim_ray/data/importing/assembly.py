"""From staged units to the data root: every row to its subject's place.

A first pass over narrow columns says which rows lie nowhere, before anything is written; the second
writes the others.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedkim_ray.data.importing.homes import Homes
from fedkim_ray.data.importing.part_files import PartFiles, flush_above
from fedkim_ray.data.importing.staging import ITEM, LINE, SITE, STAGED_ONLY, Staged
from fedkim_ray.data.reasons import REASONS
from fedkim_ray.data.scales import Moments
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.storage import Folder
from fedkim_ray.types import Modality, TaskId

NARROW = ["subject_id", SITE, "label"]
IDENTITY = ["sample_id", "subject_id", SITE, ITEM, LINE]
WAITING_BYTES = 128 << 20
"""Rows of all places together that may wait in memory for a full row group."""


@dataclass(slots=True)
class Assembled:
    """What became of the staged rows."""

    files: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that lie nowhere though nothing is wrong with them, by reason."""
    rejections: list[dict[str, Any]] = field(default_factory=list)
    """Rows that lie nowhere because something is."""
    moments: dict[Modality, Moments] = field(default_factory=dict)
    """Of public training rows."""


class Assembly:
    """Lays staged rows into a data root."""

    def __init__(
        self,
        root: Folder,
        staging: Folder,
        staged: Staged,
        stem: str,
        spec: DataSpec,
        homes: Homes,
    ) -> None:
        """Remember what to assemble.

        Args:
            root: The data root.
            staging: Folder of staged units.
            staged: Which files they have, in order; the rows keep it.
            stem: Start of the file names.
            spec: The data root's specification.
            homes: Where subjects are; it has seen none yet.
        """
        self.root = root
        self.staging = staging
        self.staged = staged
        self.stem = stem
        self.spec = spec
        self.homes = homes
        self.result = Assembled()

    def tasks(self) -> list[TaskId]:
        """Return the tasks of all staged rows."""
        return sorted({task for _, task, _ in self.staged.files})

    def settle(self) -> None:
        """Settle every staged row's subject, and note the rows that lie nowhere."""
        for task in self.tasks():
            for kind, table in self._read(task, NARROW):
                self.homes.see(kind, task, table)
        self.homes.settle()
        for task in self.tasks():
            for name, rows in self._by_folder(task, IDENTITY):
                if name.startswith("!"):
                    self._leave_out(name[1:], rows)

    def assemble(self, task: TaskId) -> None:
        """Write one task's rows to their places."""
        writers: dict[str, PartFiles] = {}
        for name, rows in self._by_folder(task, None):
            if name.startswith("!"):
                continue
            rows = rows.drop_columns(list(STAGED_ONLY))
            self._measure(name, rows)
            writers.setdefault(name, PartFiles(self.root / name, self.stem)).add(rows)
            flush_above(WAITING_BYTES, writers.values())
        for name, files in writers.items():
            files.close()
            self.result.files += [f"{name}/{part}" for part in files.names]

    def _by_folder(self, task: TaskId, columns: list[str] | None) -> Iterator[tuple[str, pa.Table]]:
        """Yield a task's staged rows with their folder, or '!' and the reason they have none."""
        copies = self._copies(task)
        for kind, table in self._read(task, columns):
            folders = self._folders(task, kind, table, copies)
            for name in sorted(set(folders)):
                yield name, table.filter(pa.array(folders == name))

    def _folders(
        self, task: TaskId, kind: str, table: pa.Table, copies: dict[str, int]
    ) -> np.ndarray:
        """Return each row's folder, (N,) str; '!' and the reason where it has none."""
        columns = (table[name].to_pylist() for name in ("sample_id", "subject_id", SITE))
        folders = []
        for sample, subject, site in zip(*columns, strict=True):
            if sample in copies:
                copies[sample] += 1
            if copies.get(sample, 0) > 1:
                folders.append("!duplicate")
            else:
                folders.append(self.homes.folder(subject, kind, site or "", task))
        return np.array(folders, object)

    def _leave_out(self, reason: str, rows: pa.Table) -> None:
        if reason not in REASONS:
            self.result.left_out[reason] += rows.num_rows
            return
        places = zip(rows[ITEM].to_pylist(), rows[LINE].to_pylist(), strict=True)
        facts = {"column": "", "reason": reason}
        self.result.rejections += [{"item": item, "row": line, **facts} for item, line in places]

    def _copies(self, task: TaskId) -> dict[str, int]:
        """Return the sample ids that occur more than once, each counted 0 so far."""
        parts = [table["sample_id"] for _, table in self._read(task, ["sample_id"])]
        chunks = [chunk for part in parts for chunk in part.chunks]
        counts = pc.value_counts(pa.chunked_array(chunks, pa.string()))
        several = counts.filter(pc.greater(counts.field("counts"), 1))
        return dict.fromkeys(several.field("values").to_pylist(), 0)

    def _measure(self, folder: str, rows: pa.Table) -> None:
        if not folder.startswith("public/"):
            return
        for modality, spec in self.spec.series.items():
            if modality not in rows.column_names:
                continue
            moments = self.result.moments.setdefault(modality, Moments.empty(len(spec.features)))
            present = rows.filter(rows[modality].is_valid()).combine_chunks()
            if present.num_rows:
                values, seen = (_stacked(present[c]) for c in (modality, f"{modality}_mask"))
                moments.add(values, seen)

    def _read(self, task: TaskId, columns: list[str] | None) -> Iterator[tuple[str, pa.Table]]:
        """Yield staged rows with their kind, row group by row group, in the source's order."""
        for kind, of_task, name in self.staged.files:
            if of_task == task:
                for table in _row_groups(self.staging, name, columns):
                    yield kind, table


def _row_groups(folder: Folder, name: str, columns: list[str] | None) -> Iterator[pa.Table]:
    with folder.fs.open(folder.full(name), "rb") as raw, pq.ParquetFile(raw) as file:
        for index in range(file.num_row_groups):
            yield file.read_row_group(index, columns)


def _stacked(column: pa.ChunkedArray) -> np.ndarray:
    """Return a tensor column without nulls as one array, rows first."""
    array: np.ndarray = column.combine_chunks().to_numpy_ndarray()
    return array


def count_by_place(files: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return examples by place and task, from examples by file."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, number in files.items():
        parts = name.split("/")
        place, task = ("/".join(parts[:2]), parts[2]) if parts[0] == "clients" else parts[:2]
        counts[place][task] += number
    return {place: dict(tasks) for place, tasks in sorted(counts.items())}
