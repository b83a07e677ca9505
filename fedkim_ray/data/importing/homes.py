"""Where every subject of an import is: the one place in which its rows may lie.

Test and public follow from the subject alone, and so does the client of partition ``iid``. For the
others a subject has one home as well: the first of its sites, the greatest of its labels.
Built from four narrow columns of the staged files; takes some 200 bytes a subject.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
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


class Homes:
    """Places of all subjects, and which subjects a client validates on."""

    def __init__(self, splitter: Splitter, settled: Mapping[str, Place]) -> None:
        """Start without subjects.

        Args:
            splitter: Who is where by rule.
            settled: Places of subjects that other data of the root have put there already.
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
            place = self.settled.get(subject) or self._home(subject, facts)
            self.places[subject] = place
            if place.startswith("clients/"):
                for task in facts.tasks:
                    members[place, task].append(subject)
        for (place, task), subjects in members.items():
            self._valid[place, task] = self._choose_valid(subjects)
            if len(subjects) == 1:
                self._alone.add((subjects[0], task))
        self._facts.clear()

    def _home(self, subject: str, facts: _Facts) -> Place:
        kind = next(k for k in KINDS if k in facts.kinds)
        if kind != "private":
            return kind
        client = self.splitter.client(subject, min(facts.sites), max(facts.strata))
        return f"clients/{client}"

    def _choose_valid(self, subjects: Iterable[str]) -> set[str]:
        """Return who validates: by rank, but at least one subject, and not all of several."""
        ranked = sorted(subjects, key=self.splitter.valid_rank)
        below = [s for s in ranked if self.splitter.valid_rank(s) < self.splitter.rule.valid_share]
        count = min(max(len(below), 1), len(ranked) - 1)
        return set(ranked[:count])

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
        if (subject, task) in self._alone:
            return "!client with one subject"
        part = "valid" if subject in self._valid[place, task] else "train"
        return f"{place}/{task}/{part}"
