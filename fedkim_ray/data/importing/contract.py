"""What an importer is: one small file in ``data/importers/`` with one class named ``SOURCE``.

To write one, copy ``importers/mitbih.py`` and change the body. An importer says five things:

1.  *Facts*, as class attributes: name, title, licence, reference, tasks, and how its subjects are
    numbered. ``Options`` are the values a user may set with ``-o name=value``.
2.  ``layout()``: the files and columns that it needs. ``fedkim data import NAME --check`` and the
    start of every import hold the source against it, before hours of work.
3.  ``spec()``: shapes and units of the modalities it carries.
4.  ``items()``: what there is to read, as small JSON values (a file's name, a range of rows, a
    patient), in a fixed order and without reading the data. Items are read in parallel processes,
    ``items_per_unit`` at a time, and a finished unit is not read again after an interruption.
5.  ``rows(item)``: the examples of one item, as ``Row``s in the source's own words. Yield a
    ``Rejection`` (or ``attempt`` the row) for one example that cannot be used; an error from
    ``rejected(code)`` that leaves ``rows`` rejects the item as one. Yield a ``LeftOut`` for what is
    not of this task by definition: nothing is wrong with it, and it is counted apart.

``prepare()`` may do work that no single item can do, such as sorting a table of 300 million rows by
patient: it writes files into ``self.scratch``, a local folder of this import that survives
interruptions, for ``items`` and ``rows`` to read. It is called at every start, also after an
interruption: end with a marker file, and do nothing where it is there.

All else is the machinery's, and no importer's business: scaling images to the specification,
resampling signals and ordering leads, holding series to their limits, hashing subjects, splitting,
clients, Parquet, hashes, progress, resumption, ``rejected.parquet`` and the card.

*Splits.* Every row's subject goes by keyed hash into test, public or one client. A source that
comes split may set ``Row.part``. Rows of unseen tasks count in test alone: elsewhere they are left
out, and counted; ``test_only`` puts all subjects of a source into test, for sources without a
trained task. Sources that share patients name the same ``subjects_of``: then they agree on who
is where.

Shape letters: C leads, T samples, H hours, F features.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.readers.recordings import Recording
from fedkim_ray.data.root import Source
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.errors import RowRejectedError
from fedkim_ray.types import Frozen, Modality, Task, TaskId

Item: TypeAlias = str | int | tuple[str | int, ...]
Part = Literal["test", "public", "private"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One example, in the source's own words."""

    sample: str
    """Identity within the source and task; written as a keyed hash."""
    subject: str
    """Whose it is, as the source numbers people; written as a keyed hash."""
    task: TaskId
    label: int | None = None
    """0 or 1 for a yes/no task; the answer word follows from it."""
    answer: str | None = None
    """Of other tasks."""
    question: str | None = None
    """Where it differs from the task's."""
    text: str | None = None
    image: np.ndarray | None = None
    """(height, width) uint8 as ``readers.images.read_image`` gives it, in any size."""
    signal: Recording | None = None
    """As ``readers.recordings`` gives it: leads in any order, at any rate."""
    series: Mapping[Modality, np.ndarray] = field(default_factory=dict)
    """(H, F) float, in the specification's features and units, NaN where nothing was measured;
    fewer hours than the specification's are filled up with unmeasured ones."""
    line: int | None = None
    """Line of the source's table, 1 being the first after the header; for rejections."""
    site: str = ""
    """Hospital, where the source names it; becomes a client of partition ``site``."""
    sex: str | None = None
    """One of ``traits.SEXES``; None where not stated. Written for test rows alone, as is the
    age and the site: results are reported by them."""
    age_years: int | None = None
    """0 to ``traits.MAX_AGE_YEARS``."""
    part: Part | None = None
    """Where the source's own split puts it; None leaves it to the keyed hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """One example that is not used, and why."""

    reason: str
    """A key of ``reasons.REASONS``."""
    row: int | None = None
    """Line of the source's table, 1 being the first after the header."""
    column: str = ""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One example that is not of its task by definition."""

    reason: str
    """In words, as the import's report shows it; no value of the data."""


Made: TypeAlias = Row | LeftOut
OUTSIDE_TEST = "unseen task outside test"
"""Why rows of unseen tasks are left out in public and private."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Files that a source must have."""

    pattern: str
    """Glob relative to the source."""
    columns: tuple[str, ...] = ()
    """Columns of a CSV, CSV.GZ or Parquet table, or keys of the first object of a JSON list."""
    at_least: int = 1
    """How many files match; 0 where the source may lack them."""


class SplitDefaults(Frozen):
    """Shares of all subjects that suit a source; the command line overrides them."""

    test_share: float = 0.1
    public_share: float = 0.1
    valid_share: float = 0.1
    partition: str = "iid"


class NoOptions(Frozen):
    """Of importers that have none."""


class Importer(ABC):
    """One source of data; instances are made anew in every worker process."""

    name: ClassVar[str]
    """As in ``fedkim data import NAME``; the module's name."""
    title: ClassVar[str]
    kind: ClassVar[Literal["real", "synthetic"]] = "real"
    licence: ClassVar[str]
    reference: ClassVar[str]
    tasks: ClassVar[tuple[TaskId, ...]]
    ids_are_public: ClassVar[bool] = False
    """Whether anybody may know the subject numbers: then the key is public too and everybody gets
    the same split."""
    subjects_of: ClassVar[str] = ""
    """Name of the numbering of subjects, unless ``--subjects-of`` gives another; the importer's
    own name where empty."""
    test_only: ClassVar[bool] = False
    split_defaults: ClassVar[SplitDefaults] = SplitDefaults()
    items_per_unit: ClassVar[int] = 64
    """Items that one process reads at a time and that an interruption may cost."""
    impossible: Literal["missing", "reject"] = "missing"
    """What becomes of a series value outside its feature's limits: counted and taken as missing,
    or its row is rejected."""
    Options: ClassVar[type[Frozen]] = NoOptions

    def __init__(self, files: SourceFiles, options: Frozen, scratch: Path) -> None:
        """Remember where to read; reads nothing.

        Args:
            files: The source.
            options: An instance of ``Options``.
            scratch: Local folder that ``prepare`` may write into.
        """
        self.files = files
        self.options = options
        self.scratch = scratch
        self.unused_values: Counter[str] = Counter()
        """Values that ``rows`` did not use because they are impossible or of a unit that is not
        known, by feature; the machinery reports them."""

    @property
    def import_name(self) -> str:
        """What an import is called in its data root, unless ``--name`` says otherwise."""
        return self.name

    @classmethod
    def default_source(cls) -> str | None:
        """Return where the source is if ``--src`` does not say, fetching it if need be."""
        return None

    @abstractmethod
    def layout(self) -> Sequence[Expected]:
        """Return the files that the source must have."""

    @abstractmethod
    def spec(self) -> DataSpec:
        """Return shapes and units of the modalities that the source carries."""

    def task_table(self) -> Mapping[TaskId, Task]:
        """Return the tasks of the source's rows, by id."""
        return {task.id: task for task in TASKS if task.id in self.tasks}

    def card_source(self) -> Source:
        """Return what the data root's card says of the source."""
        return Source(
            name=self.title,
            kind=self.kind,
            licence=self.licence,
            tasks=tuple(self.task_table()),
            reference=self.reference,
        )

    def prepare(self) -> None:  # noqa: B027 - most sources need none
        """Do what no single item can do; see the module's text."""

    @abstractmethod
    def items(self) -> Iterable[Item]:
        """Return what there is to read, in a fixed order."""

    @abstractmethod
    def rows(self, item: Item) -> Iterator[Row | LeftOut | Rejection]:
        """Yield the examples of one item.

        Raises:
            RowRejectedError: the whole item cannot be used.
        """

    def where(self, item: Item) -> str:
        """Return an item's place in the source, for the person at the terminal alone."""
        parts = item if isinstance(item, tuple) else (item,)
        return " ".join(map(str, parts))


def attempt(
    make: Callable[[], Made | Iterable[Made]], row: int | None = None, column: str = ""
) -> Iterator[Made | Rejection]:
    """Yield what ``make`` returns, or the rejection that it raises.

    Args:
        make: Reads one example, or a few that stand or fall together.
        row: Line of the source's table.
        column: Column, where the error names none.
    """
    try:
        made = make()
        yield from (made,) if isinstance(made, Row | LeftOut) else tuple(made)
    except RowRejectedError as error:
        yield Rejection(reason=error.reason, row=row, column=error.column or column)
