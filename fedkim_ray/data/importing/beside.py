"""Whether an import may lie in a data root beside those that are there."""

from collections.abc import Collection
from dataclasses import dataclass

from fedkim_ray.data.importing.record import ImportRecord, Origin, merged_spec
from fedkim_ray.data.root import CARD, JOINED, altered_files, read_card, sample_files
from fedkim_ray.data.schema import DataSpec, merge_specs
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """An import that is about to change a data root."""

    name: str
    origin: Origin
    seed: int
    subjects_of: str
    spec: DataSpec
    again: bool
    """Whether it may take the place of other data of its name."""


def require_fitting(
    root: Folder, new: Newcomer, before: ImportRecord | None, others: Collection[ImportRecord]
) -> None:
    """Hold an import against what the root has.

    Args:
        root: The data root.
        new: The import.
        before: What lies there under its name.
        others: What lies there under other names.

    Raises:
        DataError: the root was joined, was not imported or is not all here, has a part of an import
            that did not end, other data under this name or these under another, was split in
            another way, or has other shapes.
    """
    if root.exists(JOINED):
        raise _joined(root)
    if root.exists(CARD):
        if before is None and not others:
            raise _not_imported(root)
        _require_all_here(root, new.name)
    _require_no_leftovers(root, {new.name, *(other.name for other in others)})
    if before and not new.again:
        _require_same_data(root, new, before)
    for other in others:
        _require_other_data(root, new, other)
        _require_same_split(root, new, other)
    merge_specs(merged_spec(others), new.spec)


def name_of_import(file: str) -> str:
    """Return which import wrote a file ``<name>-00000.parquet``."""
    return file.rsplit("/", 1)[-1].rsplit("-", 1)[0]


def _not_imported(root: Folder) -> DataError:
    return DataError(
        f"{root.url!r} holds a data root that was not imported: {read_card(root).name!r}.",
        "An import writes into a folder of its own, or beside other imports.",
        "Choose another --dst.",
    )


def _joined(root: Folder) -> DataError:
    return DataError(
        f"{root.url!r} was joined from roots that were imported apart.",
        "All that it holds is of one of them, so that it can be joined again.",
        "Import into one of them or into another --dst, then call `fedkim data join` with all.",
    )


def _require_all_here(root: Folder, name: str) -> None:
    """Refuse a root without some files of other imports: the new card would not name them."""
    away = [n for n in altered_files(root, read_card(root)) if name_of_import(n) != name]
    if away:
        raise DataError(
            f"{root.full(away[0])!r} is on the card, and missing or altered ({len(away)} files).",
            "An import reads the subjects of the whole root: nobody may be in two places.",
            "Import where all files of the root lie, and hand sites their folders afterwards; or "
            "import into a root of its own, and bring the two together with `fedkim data join`.",
        )


def _require_no_leftovers(root: Folder, names: Collection[str]) -> None:
    """Refuse files of an import that left no record: the new card would name them too."""
    if left := [n for n in sample_files(root) if name_of_import(n) not in names]:
        raise DataError(
            f"{root.full(left[0])!r} is of an import that did not end ({len(left)} such files).",
            "Each example is in a data root once.",
            f"Finish it with --name {name_of_import(left[0])}, or delete its files.",
        )


def _require_same_data(root: Folder, new: Newcomer, before: ImportRecord) -> None:
    if differing := new.origin.differences(before):
        raise DataError(
            f"{root.url!r} has an import {new.name!r} with another {', '.join(differing)}.",
            "An import replaces what its own name has brought in before.",
            "Give this one a name of its own with --name, or replace the other with --again.",
        )


def _require_other_data(root: Folder, new: Newcomer, other: ImportRecord) -> None:
    if not new.origin.differences(other):
        raise DataError(
            f"{root.url!r} has just these data already, under the name {other.name!r}.",
            "Each example is in a data root once.",
            f"Import them with --name {other.name}, or into another --dst.",
        )


def _require_same_split(root: Folder, new: Newcomer, other: ImportRecord) -> None:
    same_seed = other.rule.seed == new.seed
    same_people = other.subjects_of == new.subjects_of
    same_key = other.key_fingerprint == new.origin.key_fingerprint
    if same_seed and (not same_people or same_key):
        return
    raise DataError(
        f"{root.url!r} was split with another {'key' if same_seed else 'seed'}.",
        f"Its import {other.name!r} has seed {other.rule.seed}, and data of the same people share "
        "one key.",
        "Use those, or another --dst; where the patient numbers are another hospital's, say so "
        "with --subjects-of.",
    )
