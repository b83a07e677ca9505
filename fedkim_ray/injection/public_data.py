"""The public examples that injection draws from, held to the tasks that it may train."""

from collections.abc import Iterable, Sequence

from fedkim_ray.data.loading import SampleSet, load_samples, require_task
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.storage import Folder
from fedkim_ray.types import Modality, Task, TaskId


def load_public(
    root: Folder,
    tasks: Iterable[Task],
    spec: DataSpec,
    modalities: Sequence[Modality] | None = None,
) -> dict[TaskId, SampleSet]:
    """Read ``public/<task>/train`` of each task.

    Args:
        root: The data root.
        tasks: Trained tasks.
        spec: What the data carry.
        modalities: Modalities whose columns are read; each task's own where None, and () to look at
            the rows before any work starts.

    Raises:
        DataError: a task has no samples, a file breaks the sample table's contract, or a row is of
            another task than its folder: it might be of one that is only ever to be asked.
    """
    samples = {}
    for task in tasks:
        folder = root / "public" / task.id / "train"
        wanted = task.modalities if modalities is None else modalities
        samples[task.id] = load_samples(folder, spec, wanted)
        require_task(samples[task.id], task.id, folder)
    return samples
