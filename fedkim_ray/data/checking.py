"""Hold a data root against its promises, without stopping at the first that is broken."""

from collections.abc import Iterator

import pyarrow.compute as pc

from fedkim_ray.data.loading import SampleSet
from fedkim_ray.data.root import (
    DatasetCard,
    place_of_file,
    read_card,
    require_no_shared_subjects,
    stray_files,
    subjects_of,
)
from fedkim_ray.data.sample_files import Origin, stream_samples
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder


def check_root(root: Folder, images: bool = False, card: DatasetCard | None = None) -> list[str]:
    """Return what is wrong with a data root, one sentence a problem; empty if it is whole.

    Args:
        root: The data root.
        images: Whether to decode every image as well.
        card: Of the places that are to be here; the root's own where None.
    """
    card = card or read_card(root)
    problems = [p for name in card.files for p in _check_file(root, name, card, images)]
    problems += [f"{name}: the file is not on the card." for name in stray_files(root, card)]
    if not problems:
        problems = list(_check_subjects(root, card))
    return problems


def _check_file(root: Folder, name: str, card: DatasetCard, images: bool) -> Iterator[str]:
    """Yield what is wrong with one file; an altered file is looked at no further."""
    if not root.exists(name):
        yield f"{name}: the file is missing."
        return
    if root.sha256(name) != card.files[name].sha256:
        yield f"{name}: the file was altered after it was written."
        return
    num_rows = 0
    try:
        for table in stream_samples(root, name, card.spec):
            first_row, num_rows = num_rows, num_rows + table.num_rows
            if not pc.all(pc.equal(table["task"], _task_of(name))).as_py():
                yield f"{name}: it has rows of another task."
                return
            if images and "image" in table.column_names:
                origin = Origin({root.full(name): num_rows}, range(first_row, num_rows))
                _decode_all(SampleSet(table.select(["image"]), card.spec, origin))
    except DataError as error:
        yield f"{name}: {error}"
        return
    if num_rows != card.files[name].num_examples:
        yield f"{name}: it has {num_rows} rows; the card says {card.files[name].num_examples}."


def _task_of(name: str) -> str:
    return name.removeprefix(f"{place_of_file(name)}/").split("/")[0]


def _decode_all(samples: SampleSet) -> None:
    for _ in samples:
        pass


def _check_subjects(root: Folder, card: DatasetCard) -> Iterator[str]:
    """Yield the places that share a subject, and the tasks whose train and valid sets do."""
    try:
        require_no_shared_subjects(root, card)
    except DataError as error:
        yield str(error)
    for client in card.clients:
        for task in card.tasks_of(client):
            train, valid = (
                {
                    subject
                    for name in card.files
                    if name.startswith(f"clients/{client}/{task}/{split}/")
                    for subject in subjects_of(root, name, card.spec)
                }
                for split in ("train", "valid")
            )
            if train & valid:
                yield f"clients/{client}/{task}: a subject is in train and in valid."
