"""Where every subject of an import is: the one place in which its rows may lie.

Test and public follow from the subject alone, and so does the client of partition ``iid``. For the
others a subject has one home as well: the first of its sites, the greatest of its labels. Where
other imports of the root have put a subject stands before all that.
Built from four narrow columns of the staged files; takes some 200 bytes a subject.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from fedkim_ray.data.importing.split import KINDS, Splitter
from fedkim_ray.data.importing.staging import SITE
from fedkim_ray.types import TaskId

Place = str
"""``test``, ``public`` or ``clients/<client>``."""


@dataclass(slots=True)
class _Facts:
    kinds: set[str] = field(default_factory=set)
    sites: set[str] = field(default_factory=set)
    strata: set[str] = field(default_factory=set)
    tasks: set[TaskId] = field(default_factory=set)
    """Those with private rows."""


@dataclass(slots=True)
class Settled:
    """Where other imports of the root have put subjects already."""

    places: dict[str, Place] = field(default_factory=dict)
    parts: dict[tuple[str, TaskId], str] = field(default_factory=dict)
    """``train`` or ``valid`` of a client's subject, by task."""


class Homes:
    """Places of all subjects, and which subjects a client validates on."""

    def __init__(self, splitter: Splitter, settled: Settled) -> None:
        """Start without subjects.

        Args:
            splitter: Who is where by rule.
            settled: Who is where already.
        """
        self.splitter = splitter
        self.settled = settled
        self.places: dict[str, Place] = {}
        self._facts: defaultdict[str, _Facts] = defaultdict(_Facts)
        self._valid: dict[tuple[Place, TaskId], set[str]] = {}
        self._alone: set[tuple[str, TaskId]] = set()

    def see(self, kind: str, task: TaskId, rows: pa.Table) -> None:
        """Take in the columns ``subject_id``, ``site`` and ``label`` of staged rows."""
        distinct = rows.group_by(["subject_id", SITE, "label"]).aggregate([]).to_pylist()
        for row in distinct:
            facts = self._facts[row["subject_id"]]
            facts.kinds.add(kind)
            if kind == "private":
                facts.sites.add(row[SITE] or "")
                facts.strata.add(f"{task}={row['label']}")
                facts.tasks.add(task)

    def settle(self) -> None:
        """Decide every subject's place, once all rows were seen."""
        members: defaultdict[tuple[Place, TaskId], list[str]] = defaultdict(list)
        for subject, facts in self._facts.items():
            place = self.settled.places.get(subject) or self._home(subject, facts)
            self.places[subject] = place
            if place.startswith("clients/"):
                for task in facts.tasks:
                    members[place, task].append(subject)
        for (place, task), subjects in members.items():
            self._valid[place, task] = self._choose_valid(task, subjects)
            if len(subjects) == 1:
                self._alone.add((subjects[0], task))
        self._facts.clear()

    def _home(self, subject: str, facts: _Facts) -> Place:
        kind = next(k for k in KINDS if k in facts.kinds)
        if kind != "private":
            return kind
        client = self.splitter.client(subject, min(facts.sites), max(facts.strata))
        return f"clients/{client}"

    def _choose_valid(self, task: TaskId, subjects: Iterable[str]) -> set[str]:
        """Return who validates: by rank, but at least one subject, and not all of several.

        Who trains or validates already goes on with that.
        """
        part_of = {s: self.settled.parts.get((s, task)) for s in subjects}
        valid = {s for s, part in part_of.items() if part == "valid"}
        free = [s for s, part in part_of.items() if part is None]
        ranked = sorted(free, key=self.splitter.valid_rank)
        below = [s for s in ranked if self.splitter.valid_rank(s) < self.splitter.rule.valid_share]
        count = max(len(below), 0 if valid else 1)
        if "train" not in part_of.values():
            count = min(count, len(ranked) - 1)
        return valid | set(ranked[: max(count, 0)])

    def folder(self, subject: str, kind: str, site: str, task: TaskId) -> str:
        """Return the folder of a staged row, or the reason, with '!', why it is left out."""
        place = self.places[subject]
        if place != kind and not (place.startswith("clients/") and kind == "private"):
            return "!other_place"
        if place in KINDS:
            return f"public/{task}/train" if place == "public" else f"test/{task}"
        if self.splitter.rule.partition == "site":
            home = self.splitter.client(subject, site, "")
            if f"clients/{home}" != place:
                return "!other_place"
        part = self.settled.parts.get((subject, task))
        if part is None and (subject, task) in self._alone:
            return "!client with one subject"
        chosen = "valid" if subject in self._valid[place, task] else "train"
        return f"{place}/{task}/{part or chosen}"
