"""A synthetic data root of a few hundred tiny examples, for tests and first steps.

Every class differs by a constant shift of its arrays, so a learner that works reaches a high
score within seconds, and one that does not stays at chance.
"""

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from fedkim_ray.data.modalities import SERIES
from fedkim_ray.data.root import DatasetCard, Source, write_card
from fedkim_ray.data.schema import (
    DataSpec,
    FeatureSpec,
    ImageSpec,
    SeriesSpec,
    SignalSpec,
    sample_table,
    write_samples,
)
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.storage import Folder
from fedkim_ray.types import Task

SPEC = DataSpec(
    image=ImageSpec(size_px=16),
    signal=SignalSpec(leads=("I", "II"), num_samples=100),
    series={
        m: SeriesSpec(
            hours=4,
            features=tuple(
                FeatureSpec(name=f"{m}_{i}", unit="1", low=-10.0, high=10.0) for i in range(2)
            ),
        )
        for m in SERIES
    },
)
CLIENTS: Mapping[str, tuple[str, ...]] = {
    "north": ("lung_opacity", "covid19", "ecg_abnormal"),
    "south": ("ecg_abnormal", "mortality"),
}
"""South has no images: its rounds must not touch the image encoder."""


def write_tiny_root(url: str, seed: int = 0, num_private: int = 48) -> DatasetCard:
    """Write the root and return its card.

    Args:
        url: Where to write it, any fsspec URL.
        seed: Seed of all examples.
        num_private: Training examples a client and task; public data have half, test as many.
    """
    root = Folder.at(url)
    tasks = {task.id: task for task in TASKS}
    for client, task_ids in CLIENTS.items():
        for task_id in task_ids:
            where = f"clients/{client}/{task_id}"
            _write(root, f"{where}/train", tasks[task_id], num_private, seed)
            _write(root, f"{where}/valid", tasks[task_id], num_private // 4, seed)
    for task in TASKS:
        if task.role == "train":
            _write(root, f"public/{task.id}/train", task, num_private // 2, seed)
        _write(root, f"test/{task.id}", task, num_private, seed)
    source = Source(
        name="tiny", kind="synthetic", licence="CC0-1.0", tasks=tuple(t.id for t in TASKS)
    )
    return write_card(
        root,
        DatasetCard(
            name="tiny",
            sources=(source,),
            spec=SPEC,
            seed=seed,
            split_rule="one example a subject",
        ),
    )


def _write(root: Folder, place: str, task: Task, num_examples: int, seed: int) -> None:
    rng = np.random.default_rng([seed, *place.encode()])
    rows = [_row(task, place, i, rng) for i in range(num_examples)]
    write_samples(root, f"{place}/part-0.parquet", sample_table(rows, SPEC))


def _row(task: Task, place: str, index: int, rng: np.random.Generator) -> dict[str, object]:
    label = index % 2
    shift = 0.8 * (2 * label - 1)
    row: dict[str, object] = {
        "sample_id": f"{place}/{index}",
        "subject_id": f"{place}/{index}",
        "task": task.id,
        "question": task.question,
        "answer": task.answer_words[label],
        "label": label if task.kind == "yes_no" else None,
        "text": "A short clinical note." if "text" in task.modalities else None,
    }
    for modality in task.modalities:
        if modality == "image":
            row["image"] = _png(rng.normal(0.5 + 0.2 * shift, 0.15, (16, 16)))
        elif modality == "signal":
            row["signal"] = rng.normal(shift, 1.0, SPEC.shape("signal")).astype(np.float32)
        elif modality in SERIES:
            shape = SPEC.shape(modality)
            row[modality] = rng.normal(shift, 1.0, shape).astype(np.float32)
            row[f"{modality}_mask"] = (rng.random(shape) < 0.8).astype(np.uint8)
    return row


def _png(grey: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray((grey.clip(0, 1) * 255).astype(np.uint8)).save(sink, "PNG")
    return sink.getvalue()
