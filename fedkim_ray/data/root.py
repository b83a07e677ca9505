"""A data root: the folders of a federation's data and the card that describes them.

clients/<client>/<task>/{train,valid}/*.parquet     private, read by that client alone
public/<task>/train/*.parquet                       injection
test/<task>/*.parquet                               evaluation
dataset.json                                        written last: sources, spec, counts, hashes
joined.json                                         of a root that was joined: its parts' imports
"""

import hashlib
from collections.abc import Collection, Mapping
from typing import Literal

import pyarrow.compute as pc
from pydantic import Field, ValidationError

from fedkim_ray.data.sample_files import stream_samples
from fedkim_ray.data.schema import DataSpec, read_samples
from fedkim_ray.errors import DataError, StorageError
from fedkim_ray.storage import Folder
from fedkim_ray.types import ClientId, Frozen, TaskId

CARD = "dataset.json"
JOINED = "joined.json"
PLACES = ("clients", "public", "test")


class Source(Frozen):
    """Where some tasks' data come from."""

    name: str
    kind: Literal["real", "synthetic"]
    licence: str
    tasks: tuple[TaskId, ...]
    reference: str = ""
    """Citation or address."""


class FileFacts(Frozen):
    """What the card promises of one file."""

    sha256: str
    size_bytes: int
    num_examples: int


class DatasetCard(Frozen):
    """``dataset.json``: all that may be known of a data root without opening private files."""

    format_version: Literal[1] = 1
    name: str
    sources: tuple[Source, ...]
    spec: DataSpec
    seed: int
    split_rule: str
    files: dict[str, FileFacts] = Field(default_factory=dict)

    @property
    def clients(self) -> tuple[ClientId, ...]:
        """Clients that have data here, sorted."""
        return tuple(sorted({f.split("/")[1] for f in self.files if f.startswith("clients/")}))

    def tasks_of(self, client: ClientId) -> tuple[TaskId, ...]:
        """Tasks that ``client`` has training data of, sorted."""
        parts = [f.split("/") for f in self.files]
        found = {p[2] for p in parts if p[:2] == ["clients", client] and p[3] == "train"}
        return tuple(sorted(found))

    def num_examples(self, prefix: str) -> int:
        """Return the number of examples in all files under ``prefix``."""
        return sum(f.num_examples for name, f in self.files.items() if name.startswith(prefix))

    def kind_of(self, task: TaskId) -> str:
        """Return ``real``, ``synthetic`` or ``real and synthetic`` for a task's data."""
        kinds = sorted({source.kind for source in self.sources if task in source.tasks})
        return " and ".join(kinds) or "unknown"

    def fingerprint(self, prefix: str) -> str:
        """Return one SHA-256 over the hashes of all files under ``prefix``, for lineage."""
        lines = [f"{n} {f.sha256}" for n, f in sorted(self.files.items()) if n.startswith(prefix)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each folder of ``PLACES``."""
        return {place: self.fingerprint(f"{place}/") for place in PLACES}


def read_card(root: Folder) -> DatasetCard:
    """Read a data root's card.

    Raises:
        DataError: there is no data root, or its card does not parse.
    """
    try:
        return DatasetCard.model_validate(root.read_json(CARD))
    except StorageError:
        raise DataError(
            f"There is no data root at {root.url!r}.",
            f"A data root has a {CARD}, which is written last.",
            "Make one with `fedkim data demo DIR`, or correct data.root in the recipe.",
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"{root.full(CARD)!r} cannot be used: {first['loc']}: {first['msg']}.",
            "The card is written by `fedkim data`.",
            "Make the data root again with this release.",
        ) from None


def altered_files(root: Folder, card: DatasetCard, prefix: str = "") -> list[str]:
    """Return the files under ``prefix`` that are missing or of another size than the card says.

    It opens none of them: `fedkim data check` reads and hashes all.
    """
    return [
        name
        for name, facts in card.files.items()
        if name.startswith(prefix)
        and not (root.exists(name) and root.fs.size(root.full(name)) == facts.size_bytes)
    ]


def part_here(root: Folder, card: DatasetCard) -> tuple[DatasetCard, list[str]]:
    """Return a card of the files that are here, and the names of the others.

    A machine may see a part of a root: the head, say, no client's folder.

    Raises:
        DataError: none is here.
    """
    here = {name: facts for name, facts in card.files.items() if root.exists(name)}
    if not here:
        raise DataError(
            f"None of the {len(card.files)} files on the card is at {root.url!r}.",
            "A data root has the files that its card names, or those that this machine may see.",
            "Restore them, or make the data root again.",
        )
    return card.model_copy(update={"files": here}), [n for n in card.files if n not in here]


def places_here(root: Folder, card: DatasetCard) -> tuple[DatasetCard, list[str]]:
    """Return a card of the places that are here, and the files of the others.

    A place is as ``place_of_file`` has it. One of which any file is here ought to be here whole.

    Raises:
        DataError: none is here.
    """
    places = {place_of_file(name) for name in part_here(root, card)[0].files}
    here = {name: facts for name, facts in card.files.items() if place_of_file(name) in places}
    return card.model_copy(update={"files": here}), [n for n in card.files if n not in here]


def write_card(
    root: Folder, card: DatasetCard, known: Mapping[str, FileFacts] | None = None
) -> DatasetCard:
    """Check, count and hash every file under ``root``, write the card last, and return it whole.

    Args:
        root: The data root.
        card: The card without files.
        known: Facts of files that were checked when they were written.

    Raises:
        DataError: a file breaks the contract, or a subject is in two places.
    """
    known = known or {}
    names = sample_files(root)
    files = {name: known.get(name) or file_facts(root, name, card.spec) for name in names}
    whole = card.model_copy(update={"files": files})
    require_no_shared_subjects(root, whole)
    root.write_bytes(CARD, card_bytes(whole))
    return whole


def card_bytes(card: DatasetCard) -> bytes:
    """Return what is written of a card."""
    return card.model_dump_json(indent=1).encode()


def sample_files(root: Folder, places: Collection[str] = PLACES) -> list[str]:
    """Return the sorted names of all sample tables of a root, or of some of its folders."""
    return sorted(name for place in places for name in root.glob(f"{place}/**/*.parquet"))


def stray_files(root: Folder, card: DatasetCard, places: Collection[str] = PLACES) -> list[str]:
    """Return the sample tables of a root, or of some folders, that the card does not name."""
    return [name for name in sample_files(root, places) if name not in card.files]


def require_listed(root: Folder, card: DatasetCard, *places: str) -> None:
    """Refuse folders with sample tables that the card does not name: they would be read too.

    Raises:
        DataError: naming the first such file.
    """
    if stray := stray_files(root, card, places):
        raise DataError(
            f"{root.full(stray[0])!r} is not on the card ({len(stray)} such files).",
            f"{CARD} names every sample table below these folders, with its hash.",
            "Take it away, or import its rows; `fedkim data check` finds all of them.",
        )


def file_facts(root: Folder, name: str, spec: DataSpec) -> FileFacts:
    """Hold a file against the contract, row group by row group, and return what the card says.

    Raises:
        DataError: the file breaks the contract.
    """
    num_examples = sum(table.num_rows for table in stream_samples(root, name, spec))
    size = root.fs.size(root.full(name))
    return FileFacts(sha256=root.sha256(name), size_bytes=size, num_examples=num_examples)


def place_of_file(name: str) -> str:
    """Return which of ``clients/<client>``, ``public`` and ``test`` a file belongs to."""
    parts = name.split("/")
    return "/".join(parts[:2]) if parts[0] == "clients" else parts[0]


def require_no_shared_subjects(root: Folder, card: DatasetCard) -> None:
    """Refuse a root where one subject is in two of {any client, public, test}.

    Raises:
        DataError: naming the two places, never the subject.
    """
    place_of: dict[str, str] = {}
    for name in card.files:
        place = place_of_file(name)
        for subject in subjects_of(root, name, card.spec):
            other = place_of.setdefault(subject, place)
            if other != place:
                raise DataError(
                    f"{name!r} has a subject that {other!r} has too.",
                    "A subject is in one client, in public or in test, never in two.",
                    "Split by subject and import again.",
                )


def subjects_of(root: Folder, name: str, spec: DataSpec) -> set[str]:
    """Return the subjects of a file, reading that column alone."""
    column = read_samples(root, name, spec, ("subject_id",))["subject_id"]
    return set(pc.unique(column).to_pylist())
