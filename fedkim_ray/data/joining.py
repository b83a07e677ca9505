"""Roots that hospitals imported apart, joined without their private files.

A part is what one hospital hands out: ``dataset.json``, ``imports/<name>/import.json``, and the
folders ``public`` and ``test`` where it published rows; or its whole root, of which the rest is
not read. The joint root is as one import after the other into one root would have left it, but for
``clients``: each hospital keeps its own there, and the joint card names its files.

joined.json                         written first: what is here may be replaced by a later join
public/..., test/...                copied
imports/<name>/import.json          copied
dataset.json                        removed before files change, written last

Nobody sees all subjects, so what keeps people apart is that each part numbers people of its own.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from fedkim_ray.data.importing.assembly import count_by_place
from fedkim_ray.data.importing.beside import name_of_import
from fedkim_ray.data.importing.record import FOLDER, RECORD, ImportRecord, card_of, read_records
from fedkim_ray.data.root import (
    CARD,
    JOINED,
    DatasetCard,
    FileFacts,
    card_bytes,
    read_card,
    sample_files,
    stray_files,
    subjects_of,
)
from fedkim_ray.data.schema import DataSpec, merge_specs
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder

FORMAT_VERSION = 1
HANDED_OUT = ("public", "test")
TASK = r"[a-z][a-z0-9_]*"
SAMPLE_FILE = re.compile(
    rf"(clients/[a-z0-9][a-z0-9-]*/{TASK}/(train|valid)|public/{TASK}/train|test/{TASK})"
    r"/[a-z0-9][a-z0-9_-]*-\d+\.parquet"
)
"""Files are written under the names that somebody else's card gives them: no other leads out."""

Progress = Callable[[int, int, str], None]
"""Called with files done, files in all, and what goes on."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one hospital handed out."""

    root: Folder
    card: DatasetCard
    records: Mapping[str, ImportRecord]

    @property
    def files(self) -> dict[str, FileFacts]:
        """Those that it hands out; the card names private ones too."""
        return {n: f for n, f in self.card.files.items() if n.split("/")[0] in HANDED_OUT}


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinResult:
    """What a join did."""

    card: DatasetCard
    unchanged: bool
    """Whether it was there already."""


def join_roots(urls: Sequence[str], root_url: str, progress: Progress | None = None) -> JoinResult:
    """Join data roots; nothing is written before all of them are found to fit.

    Args:
        urls: Of the parts, in any order.
        root_url: Of the joint root: a new folder, or an earlier join of parts of these imports.
        progress: Told how far it is.

    Raises:
        DataError: a part is not whole or does not fit beside the others, or the joint root holds
            something else.
    """
    told = progress or (lambda done, total, note: None)
    root = Folder.at(root_url)
    parts = sorted((_read_part(Folder.at(url)) for url in urls), key=lambda p: min(p.records))
    _require_several(parts)
    _require_fitting(parts)
    _require_ours(root, parts)
    _require_whole(parts, told)
    _require_no_shared_subjects(parts)
    files = {name: facts for part in parts for name, facts in part.card.files.items()}
    card = card_of(record for part in parts for record in part.records.values()).model_copy(
        update={"files": dict(sorted(files.items()))}
    )
    if _is_done(root, card, parts):
        return JoinResult(card=card, unchanged=True)
    _write(root, card, parts, told)
    return JoinResult(card=card, unchanged=False)


def _read_part(root: Folder) -> Part:
    if not root.exists(CARD):
        raise DataError(
            f"There is no {CARD} at {root.url!r}.",
            f"A part is what a hospital hands out of its data root: {CARD}, {FOLDER}/, and "
            "public/ and test/ where it published rows.",
            "Correct the path, or ask the hospital for it.",
        )
    part = Part(root, read_card(root), read_records(root))
    if not part.records:
        raise DataError(
            f"{root.url!r} has no {FOLDER}/<name>/{RECORD}.",
            "A part was made by `fedkim data import`, whose record says who was put where.",
            f"Hand out {FOLDER}/ too; roots of `fedkim data demo` and `tiny` are not joined.",
        )
    _require_consistent(part)
    return part


def _require_consistent(part: Part) -> None:
    """Refuse a card that names impossible files, or other files than the records count."""
    if wrong := [name for name in part.card.files if not SAMPLE_FILE.fullmatch(name)]:
        raise DataError(
            f"{part.root.full(CARD)!r} names a file {wrong[0]!r}.",
            "A sample table lies in clients/, public/ or test/, in its task's folder.",
            "Ask the hospital for the card as `fedkim data import` wrote it.",
        )
    counted = {record.name: record.counts for record in part.records.values()}
    imports = {*counted, *map(name_of_import, part.card.files)}
    named = {each: _counts(part.card, each) for each in imports}
    if named != counted:
        differing = sorted(each for each in imports if named[each] != counted.get(each))
        raise DataError(
            f"Card and records at {part.root.url!r} differ in the import {differing[0]!r}.",
            f"A card is handed out with the {RECORD} of each import that it names files of.",
            "Ask the hospital for all of it again, once no import is under way.",
        )


def _counts(card: DatasetCard, name: str) -> dict[str, dict[str, int]]:
    """Return examples by place and task of one import's files."""
    own = {f: facts for f, facts in card.files.items() if name_of_import(f) == name}
    return count_by_place({f: facts.num_examples for f, facts in own.items()})


def _require_several(parts: Sequence[Part]) -> None:
    if len(parts) < 2:
        raise DataError(
            f"{parts[0].root.url!r} is one root." if parts else "No root was named.",
            "Two or more are joined, each imported by one hospital.",
            "Name the others too; one alone is ready for a run as it is.",
        )


@dataclass(frozen=True, slots=True)
class _Claim:
    """Names that two parts may not both have."""

    what: str
    names: Callable[[Part], Collection[str]]
    expected: str
    remedy: str

    def require_apart(self, one: Part, other: Part) -> None:
        if shared := sorted(set(self.names(one)) & set(self.names(other))):
            raise DataError(
                f"{one.root.url!r} and {other.root.url!r} both have {self.what} {shared[0]!r}.",
                self.expected,
                self.remedy,
            )


CLAIMS = (
    _Claim(
        "an import named",
        lambda part: part.records,
        "Each import of a root has a name of its own, which its files bear.",
        "Import one of them again with --name and --subjects-of; and name each root once.",
    ),
    _Claim(
        "patient numbers of",
        lambda part: {record.subjects_of for record in part.records.values()},
        "Whether the same people are in both cannot be seen without private files.",
        "Where each hospital numbers its own patients, import again with --subjects-of; data of "
        "the same people are imported into one root.",
    ),
    _Claim(
        "a client named",
        lambda part: part.card.clients,
        "A client is one hospital.",
        "Import again with --partition site, and `site: {value: its-name}` in the mapping.",
    ),
)


def _require_fitting(parts: Sequence[Part]) -> None:
    """Refuse parts that could not lie in one root, or that may have people in common."""
    for one, other in combinations(parts, 2):
        for claim in CLAIMS:
            claim.require_apart(one, other)
    _require_one_seed(parts)
    _require_one_layout(parts)


def _require_one_seed(parts: Sequence[Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        if part.card.seed != first.card.seed:
            raise DataError(
                f"{part.root.url!r} was split with seed {part.card.seed}, {first.root.url!r} with "
                f"seed {first.card.seed}.",
                "All imports of a root share one seed.",
                "Import one of them again with the other's --seed.",
            )


def _require_one_layout(parts: Sequence[Part]) -> None:
    spec = DataSpec()
    for part in parts:
        try:
            spec = merge_specs(spec, part.card.spec)
        except DataError as error:
            raise DataError(
                f"{part.root.url!r} does not fit the other parts. {error.came}",
                error.expected,
                "`fedkim data describe` shows what each has: agree on one, and import again.",
            ) from None


def _require_ours(root: Folder, parts: Sequence[Part]) -> None:
    """Refuse a target that holds anything but an earlier join of these imports."""
    names = root.names()
    if (names and JOINED not in names) or any(root == part.root for part in parts):
        raise DataError(
            f"{root.url!r} holds {names[0]!r}, and is no root that can be joined into.",
            "A joint root is a new folder, an empty one, or an earlier join of the same imports.",
            "Choose another --dst.",
        )
    known = {name for part in parts for name in part.records}
    held = {*read_records(root), *map(name_of_import, sample_files(root, HANDED_OUT))}
    if unknown := sorted(held - known):
        raise DataError(
            f"{root.url!r} has an import {unknown[0]!r}, and no part that was named has it.",
            "A join replaces all that an earlier one brought together.",
            "Name that part as well, or choose another --dst.",
        )


def _require_whole(parts: Sequence[Part], told: Progress) -> None:
    """Hold every file that was handed out against the hospital's card."""
    files = [(part, name) for part in parts for name in part.files]
    for done, (part, name) in enumerate(files):
        told(done, len(files), f"checking {name}")
        if not _is_as_told(part.root, name, part.files[name]):
            raise _altered(part, name)


def _is_as_told(root: Folder, name: str, facts: FileFacts) -> bool:
    """Return whether a file is here, of this size and with these bytes."""
    return (
        root.exists(name)
        and root.fs.size(root.full(name)) == facts.size_bytes
        and root.sha256(name) == facts.sha256
    )


def _altered(part: Part, name: str) -> DataError:
    return DataError(
        f"{part.root.full(name)!r} is {'altered' if part.root.exists(name) else 'missing'}.",
        f"The hospital's {CARD} names it with size and SHA-256, and public/ and test/ are handed "
        "out whole.",
        "Ask the hospital for the file, or for all of it again if it has imported since.",
    )


def _require_no_shared_subjects(parts: Sequence[Part]) -> None:
    """Refuse a subject of whom two hospitals published rows; private ones are not here to see."""
    home: dict[str, tuple[Part, str]] = {}
    for part in parts:
        for name in part.files:
            for subject in subjects_of(part.root, name, part.card.spec):
                other, there = home.setdefault(subject, (part, name))
                if other is not part:
                    raise DataError(
                        f"{part.root.full(name)!r} has a subject that {other.root.full(there)!r} "
                        "has too.",
                        "A subject is of one hospital.",
                        "Data of the same people are imported into one root, under one numbering.",
                    )


def _is_done(root: Folder, card: DatasetCard, parts: Sequence[Part]) -> bool:
    """Return whether the joint root is already just this one."""
    return (
        root.exists(CARD)
        and root.read_bytes(CARD) == card_bytes(card)
        and all(_has_record(root, part, name) for part in parts for name in part.records)
        and not stray_files(root, card, HANDED_OUT)
        and all(_is_as_told(root, n, f) for part in parts for n, f in part.files.items())
    )


def _has_record(root: Folder, part: Part, name: str) -> bool:
    path = f"{FOLDER}/{name}/{RECORD}"
    return root.exists(path) and root.read_bytes(path) == part.root.read_bytes(path)


def _write(root: Folder, card: DatasetCard, parts: Sequence[Part], told: Progress) -> None:
    """Bring the joint root to what its card says.

    The old card goes before any file that it names, and the new one comes after all of its own.
    """
    imports = sorted(name for part in parts for name in part.records)
    root.write_json(JOINED, {"format_version": FORMAT_VERSION, "imports": imports})
    if root.exists(CARD):
        root.fs.rm_file(root.full(CARD))
    for name in stray_files(root, card, HANDED_OUT):
        root.fs.rm_file(root.full(name))
    files = [(part, name) for part in parts for name in part.files]
    for done, (part, name) in enumerate(files):
        told(done, len(files), f"copying {name}")
        _copy(part, name, root)
    for part in parts:
        for name in part.records:
            path = f"{FOLDER}/{name}/{RECORD}"
            root.write_bytes(path, part.root.read_bytes(path))
    told(len(files), len(files), "joined")
    root.write_bytes(CARD, card_bytes(card))


def _copy(part: Part, name: str, root: Folder) -> None:
    """Copy a file unless it is there; it may have changed since it was checked."""
    facts = part.files[name]
    if _is_as_told(root, name, facts):
        return
    data = part.root.read_bytes(name)
    if hashlib.sha256(data).hexdigest() != facts.sha256:
        raise _altered(part, name)
    root.write_bytes(name, data)
