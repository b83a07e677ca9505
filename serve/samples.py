"""Test rows of a data root as ready-made inputs for the playground.

They are read once at the start, a few a task and no others, and served in the form that
``predict`` takes.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field

from fedkim_ray.data.loading import Example, SampleSet, load_samples
from fedkim_ray.data.root import read_card, require_listed
from fedkim_ray.data.schema import DataSpec, open_samples
from fedkim_ray.storage import Folder
from fedkim_ray.types import Task, TaskId
from serve.errors import UnknownNameError

PER_TASK = 4


class SampleFacts(BaseModel):
    """One sample, without its inputs."""

    id: str = Field(description="Its name at /v1/samples/{sample_id}.")
    task: str = Field(description="The task that asks about it.")
    data_kind: str = Field(description="`real` or `synthetic`.")
    question: str = Field(description="What the data set asks.")
    recorded_answer: str = Field(description="What the data set says; the model may differ.")


class Sample(SampleFacts):
    """One sample with its inputs."""

    input: dict[str, Any] = Field(description="An element of `inputs` of a predict request.")


class SampleList(BaseModel):
    """All samples; none where the service was started without a data root."""

    object: str = Field("list", description="OpenAI's name of this kind of object.")
    data: list[SampleFacts] = Field(description="A few test rows a task.")


class Samples:
    """A few test rows of each task."""

    def __init__(self, samples: Mapping[str, Sample] | None = None) -> None:
        self.by_id = dict(samples or {})

    @classmethod
    def from_root(cls, url: str, tasks: Mapping[TaskId, Task], spec: DataSpec) -> "Samples":
        """Read a few test rows of each task that the root has.

        Raises:
            DataError: there is no data root, a file is not on its card, or its data have another
                specification.
        """
        root = Folder.at(url)
        card = read_card(root)
        found: dict[str, Sample] = {}
        for task in tasks.values():
            if card.num_examples(f"test/{task.id}/"):
                require_listed(root, card, f"test/{task.id}")
                folder, kind = root / "test" / task.id, card.kind_of(task.id)
                found |= {s.id: s for s in _of_task(task.id, folder, spec, kind)}
        return cls(found)

    def list(self) -> SampleList:
        """Return all samples without their inputs."""
        fields = set(SampleFacts.model_fields)
        facts = [SampleFacts(**s.model_dump(include=fields)) for s in self.by_id.values()]
        return SampleList(data=facts)

    def get(self, sample_id: str) -> Sample:
        """Return one sample with its inputs.

        Raises:
            UnknownNameError: there is no such sample.
        """
        if sample_id not in self.by_id:
            raise UnknownNameError(
                f"There is no sample {sample_id[:80]!r}.",
                f"There are {len(self.by_id)} samples.",
                "Use an id that /v1/samples gives.",
            )
        return self.by_id[sample_id]


def _of_task(task: TaskId, folder: Folder, spec: DataSpec, data_kind: str) -> Iterator[Sample]:
    few = _few(_labels(folder, spec))
    in_order = sorted(few)
    rows = load_samples(folder, spec, rows=in_order)
    for number, row in enumerate(few):
        yield _sample(f"{task}-{number}", rows, in_order.index(row), data_kind)


def _few(labels: Iterable[int | None]) -> list[int]:
    """Return the first rows of each label in turn, so that both answers occur."""
    of_label: dict[int | None, list[int]] = {1: [], 0: []}
    first = []
    for row, label in enumerate(labels):
        first.append(row)
        of_label.setdefault(label, []).append(row)
        if min(len(of_label[1]), len(of_label[0])) >= PER_TASK / 2:
            break
    pairs = [row for pair in zip(of_label[1], of_label[0], strict=False) for row in pair]
    return (pairs or first)[:PER_TASK]


def _labels(folder: Folder, spec: DataSpec) -> Iterator[int | None]:
    """Yield the label of each row, None without one; read no other column, and no further."""
    for name in folder.glob("*.parquet"):
        with open_samples(folder, name, spec) as file:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                known = "label" in file.schema_arrow.names
                labels = file.read_row_group(group, ["label"])["label"] if known else pa.nulls(rows)
                yield from labels.to_pylist()


def _sample(sample_id: str, rows: SampleSet, row: int, data_kind: str) -> Sample:
    example = rows[row]
    sent: dict[str, Any] = {"question": example.question}
    if example.text:
        sent["text"] = example.text
    if "image" in example.arrays:
        sent["image"] = _data_url(rows.table["image"][row].as_py())
    if "signal" in example.arrays and rows.spec.signal:
        sent["ecg"] = {
            "leads": list(rows.spec.signal.leads),
            "sampling_rate_hz": rows.spec.signal.sampling_rate_hz,
            "unit": "mV",
            "data": np.round(example.arrays["signal"].astype(float), 4).tolist(),
        }
    if series := _series(example, rows.spec):
        sent["series"] = series
    return Sample(
        id=sample_id,
        task=example.task,
        data_kind=data_kind,
        question=example.question,
        recorded_answer=example.answer,
        input=sent,
    )


def _data_url(encoded: bytes) -> str:
    kind = "png" if encoded.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"


def _series(example: Example, spec: DataSpec) -> dict[str, Any]:
    """Return every measured feature of every time series, null at hours without a value."""
    tables = {}
    for modality, seen in example.observed.items():
        values = example.arrays[modality]
        table = {
            feature.name: [
                round(float(values[hour, column]), 4) if seen[hour, column] else None
                for hour in range(len(values))
            ]
            for column, feature in enumerate(spec.series[modality].features)
            if seen[:, column].any()
        }
        if table:
            tables[modality] = table
    return tables
