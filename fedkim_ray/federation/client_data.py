"""A client's own examples: its train and valid sets, and what they hold.

Only the client's own process calls this. Errors name files, rows and columns, never values.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce

import pyarrow as pa
import pyarrow.compute as pc

from fedkim_ray.data.loading import SampleSet, load_samples, require_all, require_task
from fedkim_ray.data.root import CARD, DatasetCard, read_card, require_listed
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.errors import DataError, EnvironmentProblemError
from fedkim_ray.storage import Folder, beneath
from fedkim_ray.types import ClientId, Modality, Task, TaskId


@dataclass(frozen=True, slots=True)
class ClientData:
    """D^n and the split it is validated on, by task in id order."""

    train: Mapping[TaskId, SampleSet]
    valid: Mapping[TaskId, SampleSet]
    version: str
    """Another one where a file of D^n was written anew."""


def load_client_data(
    data_url: str, client_id: ClientId, tasks: Sequence[Task], spec: DataSpec
) -> ClientData:
    """Read a client's sets from ``clients/<client>/<task>/{train,valid}`` of a data root.

    Raises:
        DataError: a set is absent or empty, breaks the sample table's contract, holds rows of
            another task, or a row has no label; or the card is here and does not name a file.
    """
    root = Folder.at(data_url)
    if card := _card_if_shown(root):
        require_listed(root, card, f"clients/{client_id}")
    home = root / "clients" / client_id
    ordered = sorted(tasks, key=lambda task: task.id)
    version = _version([home / t.id / "train" for t in ordered])  # before the files are read
    return ClientData(
        train={t.id: _load_labelled(home / t.id / "train", t, spec) for t in ordered},
        valid={t.id: _load_labelled(home / t.id / "valid", t, spec) for t in ordered},
        version=version,
    )


def _version(folders: Sequence[Folder]) -> str:
    """Return a digest of what the file system says of the sample files: no content is read."""
    files = [(f, name) for f in folders for name in f.glob("*.parquet")]
    keys = [f"{f.full(name)} {f.fs.ukey(f.full(name))}" for f, name in files]
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def _card_if_shown(root: Folder) -> DatasetCard | None:
    """Return the root's card; None where this client may see its own folder alone."""
    try:
        return _card(root.url, root.fs.ukey(root.full(CARD))) if root.exists(CARD) else None
    except (PermissionError, EnvironmentProblemError) as error:
        if isinstance(beneath(error), PermissionError):
            return None
        raise


@lru_cache(maxsize=1)
def _card(data_url: str, version: str) -> DatasetCard:
    """Return the card of this version: a process may be thousands of clients of one root."""
    return read_card(Folder.at(data_url))


def group_examples(
    model: LightModel, tasks: Sequence[Task], train: Mapping[TaskId, SampleSet]
) -> dict[str, int]:
    """Count the examples that train each parameter group; groups without any are left out."""
    counts = {f"heads.{task.id}": len(train[task.id]) for task in tasks}
    for group, members in model.groups.items():
        users = [train[task.id] for task in tasks if group in model.groups_of(task)]
        if count := sum(_num_carrying(samples.table, members) for samples in users):
            counts[f"encoders.{group}"] = count
    return counts


def _load_labelled(folder: Folder, task: Task, spec: DataSpec) -> SampleSet:
    samples = load_samples(folder, spec, task.modalities)
    if not len(samples):
        raise DataError(
            f"The samples in {folder.url!r} have no row.",
            "A task that takes part has at least one example in each split.",
            "Leave the task out with data.tasks, or split the data again.",
        )
    table = samples.table
    labels = table["label"] if "label" in table.column_names else pa.nulls(len(samples))
    require_all(pc.is_valid(labels), folder, "label", "Each example of a yes/no task has a label.")
    require_task(samples, task.id, folder)
    return samples


def _num_carrying(table: pa.Table, members: Sequence[Modality]) -> int:
    """Count the rows that carry at least one modality of a group."""
    present = [table[m].is_valid() for m in members if m in table.column_names]
    return int(pc.sum(reduce(pc.or_, present)).as_py() or 0) if present else 0
