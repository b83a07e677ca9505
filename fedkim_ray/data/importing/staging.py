"""One unit of an import: read its items, encode them, and lay them by for the split.

units/<unit>/<kind>/<task>-00000.parquet     rows by test, public and private
units/<unit>/unit.json                       written last: counts and rejections

A unit with its ``unit.json`` is not read again, unless files of it could not be read. Units run in
processes of their own, so a job holds plain values alone and the worker makes its own importer.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from fedkim_ray.data.importers import find_importer
from fedkim_ray.data.importing.contract import (
    OUTSIDE_TEST,
    Importer,
    Item,
    LeftOut,
    Rejection,
    Row,
)
from fedkim_ray.data.importing.encode import Encoder
from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.importing.keys import SubjectKey
from fedkim_ray.data.importing.part_files import PartFiles
from fedkim_ray.data.importing.remote import answering
from fedkim_ray.data.importing.split import SplitRule, Splitter
from fedkim_ray.data.reasons import OF_FILES, rejected
from fedkim_ray.data.schema import TRAITS, DataSpec, sample_table
from fedkim_ray.errors import RowRejectedError
from fedkim_ray.storage import Folder
from fedkim_ray.types import Task, TaskId

DONE = "unit.json"
SITE, ITEM, LINE = "staged_site", "staged_item", "staged_line"
"""Columns of staged files alone: the hospital, the item's index among all, the table's line."""
STAGED_ONLY = {SITE: pa.string(), ITEM: pa.int64(), LINE: pa.int64()}
BATCH_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportPlan:
    """All that a worker needs to know of an import; plain values."""

    importer: str
    name: str
    """Of the import."""
    subjects_of: str
    source: str
    options: str
    """JSON of the importer's ``Options``."""
    scratch: str
    staging: str
    """URL of the folder of staged units."""
    rule: str
    """JSON of the ``SplitRule``."""
    key: bytes = field(repr=False)
    reword: bool

    def splitter(self) -> Splitter:
        """Return the rule and key, ready to use."""
        return Splitter(SplitRule.model_validate_json(self.rule), SubjectKey(self.key))

    def open_importer(self) -> Importer:
        """Return a new importer."""
        kind = find_importer(self.importer)
        options = kind.Options.model_validate_json(self.options)
        return kind(SourceFiles.at(self.source), options, Path(self.scratch))

    def encoder(self, importer: Importer) -> Encoder:
        """Return a new encoder of the importer's rows."""
        return Encoder(
            subjects=self.subjects_of,
            source=self.name,
            tasks=importer.task_table(),
            spec=importer.spec(),
            key=SubjectKey(self.key),
            impossible=importer.impossible,
            reword=self.reword,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """What all units together say."""

    files: list[tuple[str, TaskId, str]]
    """Kind, task and path of every staged file, in the source's order."""
    num_rows: int
    """Rows that can be used, with those left out."""
    rejections: list[dict[str, Any]]
    num_lost_items: int
    """Items that could not be read to their end: how many examples they had is not known."""
    left_out: Counter[str]
    out_of_range: Counter[str]

    @classmethod
    def read(cls, staging: Folder, units: Sequence[str]) -> "Staged":
        """Read the facts of whole units."""
        facts = [(staging / unit).read_json(DONE) for unit in units]
        left_out = sum((Counter(f["left_out"]) for f in facts), Counter())
        files = [
            (kind, task, f"{unit}/{kind}/{name}")
            for unit, fact in zip(units, facts, strict=True)
            for kind, task, names in fact["files"]
            for name in names
        ]
        return cls(
            files=files,
            num_rows=sum(f["num_rows"] for f in facts) + left_out.total(),
            rejections=[r for f in facts for r in f["rejections"]],
            num_lost_items=sum(f["num_lost_items"] for f in facts),
            left_out=left_out,
            out_of_range=sum((Counter(f["out_of_range"]) for f in facts), Counter()),
        )


@lru_cache(maxsize=1)
def _importer_of(plan: ImportPlan) -> Importer:
    return plan.open_importer()


def forget_unread(staging: Folder, units: Sequence[str]) -> None:
    """Let units be read again of which files could not be read: they may be restored by now."""
    for folder in (staging / unit for unit in units):
        if not folder.exists(DONE):
            continue
        if any(r["reason"] in OF_FILES for r in folder.read_json(DONE)["rejections"]):
            folder.fs.rm_file(folder.full(DONE))


def stage_unit(plan: ImportPlan, unit: str, first: int, items: list[Item]) -> None:
    """Read and lay by one unit, unless that is done.

    Args:
        plan: The import.
        unit: Name of the unit's folder.
        first: Index of its first item among all.
        items: Its items.
    """
    folder = Folder.at(plan.staging) / unit
    if folder.exists(DONE):
        return
    if folder.exists():
        folder.fs.rm(folder.path, recursive=True)
    importer = _importer_of(plan)
    staged = _Unit(folder, importer, plan)
    for index, item in enumerate(items, first):
        staged.take(index, item)
    staged.finish()


class _Unit:
    """Rows of a unit on their way into files."""

    def __init__(self, folder: Folder, importer: Importer, plan: ImportPlan) -> None:
        self.folder = folder
        self.importer = importer
        self.encoder = plan.encoder(importer)
        self.splitter = plan.splitter()
        self.needs_site = self.splitter.rule.partition == "site"
        self.files: dict[tuple[str, str], PartFiles] = {}
        self.waiting: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.rejections: list[dict[str, Any]] = []
        self.num_lost_items = 0
        self.left_out: Counter[str] = Counter()

    def take(self, index: int, item: Item) -> None:
        """Read one item."""
        try:
            rows = iter(self.importer.rows(item))
            while True:
                with answering(self.importer.files.folder):  # and not the disk that rows go to
                    made = next(rows, None)
                if made is None:
                    return
                self._take_one(index, made)
        except RowRejectedError as error:
            self.num_lost_items += 1
            self._reject(index, Rejection(reason=error.reason, column=error.column))

    def _take_one(self, index: int, made: Row | LeftOut | Rejection) -> None:
        if isinstance(made, LeftOut):
            self.left_out[made.reason] += 1
            return
        if isinstance(made, Rejection):
            self._reject(index, made)
            return
        try:
            columns = self.encoder.encode(made)
            kind = self._kind(made, columns["subject_id"])
        except RowRejectedError as error:
            facts = {"reason": error.reason, "column": error.column}
            self._reject(index, Rejection(**facts, row=made.line))
            return
        if kind != "test" and self.encoder.tasks[made.task].role == "unseen":
            self.left_out[OUTSIDE_TEST] += 1
            return
        place = (kind, made.task)
        rows = self.waiting.setdefault(place, [])
        rows.append({**columns, SITE: made.site, ITEM: index, LINE: made.line})
        if len(rows) >= BATCH_ROWS:
            self._write(place)

    def _kind(self, row: Row, subject: str) -> str:
        if self.importer.test_only:
            return "test"
        kind = row.part or self.splitter.kind(subject)
        if kind == "private" and self.needs_site and not row.site.strip():
            raise rejected("site_missing")
        return kind

    def _reject(self, index: int, rejection: Rejection) -> None:
        facts = {"reason": rejection.reason, "row": rejection.row, "column": rejection.column}
        self.rejections.append({"item": index, **facts})

    def _write(self, place: tuple[str, str]) -> None:
        kind, task = place
        rows = self.waiting.pop(place)
        columns = columns_of(self.encoder.tasks[task], self.encoder.spec)
        if kind == "test":  # nothing else has a use for them
            columns += TRAITS.names
        table = sample_table(rows, self.encoder.spec, columns)
        for name, kind_of_value in STAGED_ONLY.items():
            values = pa.array([row[name] for row in rows], kind_of_value)
            table = table.append_column(name, values)
        if place not in self.files:
            self.files[place] = PartFiles(self.folder / kind, task)
        self.files[place].add(table)

    def finish(self) -> None:
        """Write the rest, and the unit's facts last."""
        for place in list(self.waiting):
            self._write(place)
        for files in self.files.values():
            files.close()
        facts = {
            "files": [
                [kind, task, files.names] for (kind, task), files in sorted(self.files.items())
            ],
            "num_rows": sum(files.num_rows for files in self.files.values()),
            "rejections": self.rejections,
            "num_lost_items": self.num_lost_items,
            "left_out": dict(self.left_out),
            "out_of_range": dict(+(self.encoder.out_of_range + self.importer.unused_values)),
        }
        self.importer.unused_values.clear()
        self.folder.write_json(DONE, facts)


def columns_of(task: Task, spec: DataSpec) -> list[str]:
    """Return the optional columns of a task's files."""
    modalities = [m for m in task.modalities if m in spec.modalities]
    masks = [f"{m}_mask" for m in modalities if m in spec.series]
    return ["label", *(["text"] if "text" in task.modalities else []), *modalities, *masks]
