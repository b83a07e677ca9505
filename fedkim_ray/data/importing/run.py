"""One import, top to bottom: check, read in parallel, split, and write the card last.

It may be stopped at any time: called again with the same arguments it goes on with the units that
are missing, and an import that is whole is left as it is. The result does not depend on the number
of workers.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkim_ray.data.importers import find_importer
from fedkim_ray.data.importing.assembly import Assembled, Assembly, count_by_place
from fedkim_ray.data.importing.beside import Newcomer, name_of_import, require_fitting
from fedkim_ray.data.importing.contract import Item
from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.importing.homes import Homes, Settled
from fedkim_ray.data.importing.keys import SubjectKey, default_key_path, load_key, open_key
from fedkim_ray.data.importing.layout import require_layout, source_state
from fedkim_ray.data.importing.pool import in_processes
from fedkim_ray.data.importing.record import (
    ImportRecord,
    Origin,
    card_of,
    count_reasons,
    merged_spec,
    read_records,
    remove_record,
    write_record,
)
from fedkim_ray.data.importing.remote import answering, lives_in_this_process
from fedkim_ray.data.importing.request import (
    ImportRequest,
    import_name,
    numbering,
    parse_options,
    source_url,
    split_rule,
)
from fedkim_ray.data.importing.split import Splitter
from fedkim_ray.data.importing.staging import DONE, ImportPlan, Staged, forget_unread, stage_unit
from fedkim_ray.data.packages import scratch_dir
from fedkim_ray.data.reasons import REASONS
from fedkim_ray.data.root import (
    CARD,
    DatasetCard,
    FileFacts,
    altered_files,
    file_facts,
    place_of_file,
    read_card,
    sample_files,
    subjects_of,
    write_card,
)
from fedkim_ray.data.scales import Moments
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder

STAGING = ".import"
CODE_VERSION = 4
"""Rises whenever the same source would give another data root."""

Progress = Callable[[int, int, str], None]
"""Called with units done, units in all, and what goes on."""
Places = Sequence[tuple[str, int | None, str, str]]
"""Place in the source, row, column and reason of the rejections; for the owner's eyes alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """What an import did."""

    record: ImportRecord
    card: DatasetCard
    unchanged: bool
    """Whether it was there already."""
    rejected_places: Places = ()


def run_import(
    request: ImportRequest,
    progress: Progress | None = None,
    on_rejected: Callable[[Places], None] | None = None,
) -> ImportResult:
    """Import one source into a data root.

    Args:
        request: What, and how.
        progress: Told how far it is.
        on_rejected: Told what is rejected before it is judged whether that is too much, and again
            when there is more.

    Raises:
        DataError: the source, an option or the data root cannot be used, or too much is rejected.
    """
    told = progress or (lambda done, total, note: None)
    return _Import(request, told, on_rejected or (lambda places: None)).run()


class _Import:
    """The state of one import on its way."""

    def __init__(
        self, request: ImportRequest, progress: Progress, on_rejected: Callable[[Places], None]
    ) -> None:
        self.request = request
        self.progress = progress
        self.on_rejected = on_rejected
        self.kind = find_importer(request.importer)
        self.options = parse_options(self.kind, request.options)
        self.rule = split_rule(self.kind, request)
        self.key = self._load_key()
        self.root = Folder.at(request.root)
        self.source = source_url(self.kind, request)
        self.files = SourceFiles.at(self.source)
        self.importer = self.kind(self.files, self.options, Path())
        self.name = import_name(self.importer, request)
        self.subjects_of = numbering(self.kind, request)
        self.origin = Origin(
            importer=self.kind.name,
            options=self.options.model_dump(mode="json"),
            source_at=hashlib.sha256(self.source.encode()).hexdigest(),
            key_fingerprint=self.key.fingerprint,
        )
        self.staging = self.root / STAGING / self.name
        self.others = read_records(self.root)
        self.before = self.others.pop(self.name, None)

    def run(self) -> ImportResult:
        """Do what is still to do."""
        layout = self.importer.layout()
        require_layout(self.files, layout, self.kind.name)
        fingerprint = self._fingerprint(source_state(self.files, layout))
        done = self._whole(fingerprint)
        if done and not self.request.again:
            return done
        self._require_fitting()
        scratch = self._scratch(fingerprint)
        items = self._prepare(scratch)
        units = self._stage(items, fingerprint, scratch)
        staged = Staged.read(self.staging, units)
        self._require_few(staged.rejections, staged.num_rows, items)
        self._require_few_lost(staged, len(items))
        assembly = self._settle(staged)
        assembled = assembly.result
        rejections = [*staged.rejections, *assembled.rejections]
        self._require_few(rejections, staged.num_rows - len(assembled.rejections), items)
        card = self._clear()
        self._assemble(assembly)
        whole = self._publish(card, fingerprint, staged, assembled, rejections, items)
        self._remove_staging()
        shutil.rmtree(scratch, ignore_errors=True)
        return whole

    def _scratch(self, fingerprint: str) -> Path:
        """Return this import's own folder: of the same data into another root there is another."""
        own = hashlib.sha256(f"{fingerprint} {self.root.url}".encode()).hexdigest()
        return scratch_dir() / "imports" / f"{self.name}-{own[:16]}"

    def _remove_staging(self) -> None:
        """Remove what was staged, and the folder of it all once no other import uses it.

        On an object store a folder is gone with the last of its files.
        """
        self.staging.fs.rm(self.staging.path, recursive=True)
        if self.root.exists(STAGING) and not (self.root / STAGING).names():
            self.root.fs.rm(self.root.full(STAGING), recursive=True)

    def _load_key(self) -> SubjectKey:
        if self.request.key_path is None and self.kind.ids_are_public:
            return open_key()
        return load_key(self.request.key_path or default_key_path())

    def _fingerprint(self, state: list[list[str]]) -> str:
        facts = {
            "version": CODE_VERSION,
            "importer": self.kind.name,
            "name": self.name,
            "subjects_of": self.subjects_of,
            "options": self.origin.options,
            "rule": self.rule.model_dump(mode="json"),
            "key": self.key.fingerprint,
            "reword": self.request.reword,
            "source": state,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _whole(self, fingerprint: str) -> ImportResult | None:
        """Return what is there if it is just this import, with all of its files."""
        record = self.before
        if record is None or record.fingerprint != fingerprint or not self.root.exists(CARD):
            return None
        card = read_card(self.root)
        if altered_files(self.root, card):
            return None
        return ImportResult(record=record, card=card, unchanged=True)

    def _require_fitting(self) -> None:
        """Refuse an import that does not fit beside what the root has."""
        newcomer = Newcomer(
            name=self.name,
            origin=self.origin,
            seed=self.rule.seed,
            subjects_of=self.subjects_of,
            spec=self.importer.spec(),
            again=self.request.again,
        )
        require_fitting(self.root, newcomer, self.before, self.others.values())

    def _prepare(self, scratch: Path) -> list[Item]:
        self.progress(0, 0, "preparing")
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.importer = self.kind(self.files, self.options, scratch)
        with answering(self.files.folder):
            self.importer.prepare()
            return list(self.importer.items())

    def _stage(self, items: list[Item], fingerprint: str, scratch: Path) -> list[str]:
        """Read all items, in units, and return the units' names in order."""
        plan = ImportPlan(
            importer=self.kind.name,
            name=self.name,
            subjects_of=self.subjects_of,
            source=self.source,
            options=self.options.model_dump_json(),
            scratch=str(scratch),
            staging=self.staging.url,
            rule=self.rule.model_dump_json(),
            key=self.key.secret,
            reword=self.request.reword,
        )
        size = self.kind.items_per_unit
        firsts = range(0, len(items), size)
        units = [f"{fingerprint[:8]}-{first // size:06d}" for first in firsts]
        if self.request.again and self.staging.exists():  # files may have changed under their names
            self.staging.fs.rm(self.staging.path, recursive=True)
        forget_unread(self.staging, units)
        jobs = [
            (plan, unit, first, items[first : first + size])
            for unit, first in zip(units, firsts, strict=True)
            if not (self.staging / unit).exists(DONE)
        ]
        done = len(units) - len(jobs)
        self.progress(done, len(units), "reading")
        alone = any(lives_in_this_process(f) for f in (self.files.folder, self.root))
        workers = 1 if alone else max(1, min(self.request.workers, len(jobs)))
        with closing(in_processes(stage_unit, jobs, workers)) as staged:
            for _ in staged:
                done += 1
                self.progress(done, len(units), "reading")
        return units

    def _require_few_lost(self, staged: Staged, num_items: int) -> None:
        """Judge items as such: one that cannot be read is one rejection, whatever it holds."""
        if staged.num_lost_items <= self.request.max_rejected * num_items:
            return
        reasons = ", ".join(f"{r} {n}" for r, n in count_reasons(staged.rejections).items())
        raise DataError(
            f"{staged.num_lost_items} of {num_items} records cannot be read: {reasons}.",
            f"At most {self.request.max_rejected:.1%} of them may be rejected.",
            "Restore them and import again, or raise --max-rejected: what was read is kept.",
        )

    def _require_few(
        self, rejections: Sequence[Mapping[str, Any]], num_rows: int, items: Sequence[Item]
    ) -> None:
        self.on_rejected(self._places(rejections, items))
        total = num_rows + len(rejections)
        if num_rows and len(rejections) <= self.request.max_rejected * total:
            return
        reasons = ", ".join(f"{r} {n}" for r, n in count_reasons(rejections).items())
        raise DataError(
            f"{len(rejections)} of {total} examples cannot be used: {reasons or 'none came'}.",
            f"At most {self.request.max_rejected:.1%} may be rejected, and one must be left.",
            (REASONS[rejections[0]["reason"]].remedy if rejections else "Check the source.")
            + " Then import again, or raise --max-rejected: what was read is kept.",
        )

    def _places(self, rejections: Sequence[Mapping[str, Any]], items: Sequence[Item]) -> Places:
        return tuple(
            (self.importer.where(items[r["item"]]), r["row"], r["column"], r["reason"])
            for r in rejections
        )

    def _clear(self) -> DatasetCard | None:
        """Remove the files of an earlier import of this name; return the card as it was.

        The card goes first: it must not name files that are gone. Then the record: files without
        one are of an import that did not end, and no other import goes on beside them.
        """
        card = read_card(self.root) if self.root.exists(CARD) else None
        own = [n for n in sample_files(self.root) if name_of_import(n) == self.name]
        if card and (self.before or any(name in card.files for name in own)):
            self.root.fs.rm_file(self.root.full(CARD))
        if self.before:
            remove_record(self.root, self.name)
        for name in own:
            self.root.fs.rm_file(self.root.full(name))
        return card

    def _settle(self, staged: Staged) -> Assembly:
        """Decide where every staged row will lie; writes nothing."""
        self.progress(len(staged.files), len(staged.files), "splitting")
        homes = Homes(Splitter(self.rule, self.key), self._settled())
        spec = self.importer.spec()
        assembly = Assembly(self.root, self.staging, staged, self.name, spec, homes)
        assembly.settle()
        return assembly

    def _assemble(self, assembly: Assembly) -> None:
        total = len(assembly.staged.files)
        for task in assembly.tasks():
            self.progress(total, total, f"writing {task}")
            assembly.assemble(task)

    def _settled(self) -> Settled:
        """Return where people are that other imports of the root have placed already."""
        same = {n for n, other in self.others.items() if other.subjects_of == self.subjects_of}
        spec = merged_spec(self.others.values())
        names = [n for n in sample_files(self.root) if name_of_import(n) in same]
        settled = Settled()
        for name in names:
            subjects = subjects_of(self.root, name, spec)
            settled.places |= dict.fromkeys(subjects, place_of_file(name))
            if name.startswith("clients/"):
                _, _, task, part, _ = name.split("/")
                settled.parts |= {(subject, task): part for subject in subjects}
        return settled

    def _publish(
        self,
        before: DatasetCard | None,
        fingerprint: str,
        staged: Staged,
        assembled: Assembled,
        rejections: list[dict[str, Any]],
        items: list[Item],
    ) -> ImportResult:
        """Check and hash the new files, then write rejections, record and card, in this order."""
        facts = {n: file_facts(self.root, n, self.importer.spec()) for n in assembled.files}
        record = self._record(fingerprint, staged, assembled, rejections, facts)
        places = self._places(rejections, items)
        hashed = [
            {**r, "item": self.key.identifier("item", place)}
            for r, (place, *_) in zip(rejections, places, strict=True)
        ]
        write_record(self.root, record, hashed)
        whole = card_of([*self.others.values(), record])
        card = write_card(self.root, whole, {**(before.files if before else {}), **facts})
        return ImportResult(record=record, card=card, unchanged=False, rejected_places=places)

    def _record(
        self,
        fingerprint: str,
        staged: Staged,
        assembled: Assembled,
        rejections: list[dict[str, Any]],
        facts: Mapping[str, FileFacts],
    ) -> ImportRecord:
        spec = self.importer.spec()
        series = {
            m: assembled.moments.get(m, Moments.empty(len(s.features))).fit(s)
            for m, s in spec.series.items()
        }
        return ImportRecord(
            **self.origin.model_dump(),
            name=self.name,
            fingerprint=fingerprint,
            rule=self.rule,
            subjects_of=self.subjects_of,
            source=self.importer.card_source(),
            spec=spec.model_copy(update={"series": series}),
            counts=count_by_place({name: f.num_examples for name, f in facts.items()}),
            num_rows=staged.num_rows - len(assembled.rejections),
            rejected=count_reasons(rejections),
            left_out=dict(staged.left_out + assembled.left_out),
            out_of_range=dict(staged.out_of_range),
        )
