"""From sample tables to batches of tensors.

Shape letters: N rows of one modality in a batch, S image side, C leads, T samples, H hours,
F features.
"""

import io
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image
from torch import Tensor

from fedkim_ray.data.mapped import gather
from fedkim_ray.data.modalities import MODALITIES, SERIES
from fedkim_ray.data.sample_files import (
    Origin,
    read_footers,
    stream_sample_rows,
    stream_samples,
)
from fedkim_ray.data.schema import (
    DataSpec,
    SeriesSpec,
    fit_columns,
    joined_schema,
    sample_columns,
)
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder
from fedkim_ray.types import Modality, Task, TaskId

WORDS = ("sample_id", "subject_id", "task", "question", "answer", "label", "text")
"""Columns of an example that are no arrays."""
CLIP = 5.0
"""Standardised time-series values are held within this many standard deviations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row, decoded: arrays by modality, in stored units but for images in [0, 1]."""

    sample_id: str
    subject_id: str
    task: TaskId
    question: str
    answer: str
    label: int | None
    text: str | None
    arrays: Mapping[Modality, np.ndarray]
    observed: Mapping[Modality, np.ndarray]
    """For each time series, (H, F) bool: what was measured."""

    def carried_for(self, task: Task) -> tuple[Modality, ...]:
        """Modalities that it carries for its task, in the fixed order: what routing depends on.

        The question is text where nothing else came, and where a task that reads text is answered
        in words: each of its rows has a question of its own.
        """
        asks = task.kind == "generate" and "text" in task.modalities
        came = (*self.arrays, *(("text",) if self.text or asks else ()))
        return tuple(m for m in MODALITIES if m in came) or ("text",)


@dataclass(frozen=True, slots=True)
class ModalityRows:
    """One modality's rows of a batch, ready for its encoder."""

    rows: Tensor
    """(N,) int64: which examples of the batch carry it."""
    values: Tensor
    """(N, 1, S, S) images, (N, C, T) signals, (N, H, F) series; standardised."""
    observed: Tensor | None = None
    """(N, H, F) bool for a series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Examples side by side; tasks and modalities may be mixed."""

    examples: tuple[Example, ...]
    inputs: Mapping[Modality, ModalityRows]

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.examples)

    def rows_of(self, task: TaskId) -> Tensor:
        """Return the rows of one task, (N,) int64."""
        return torch.tensor([i for i, e in enumerate(self.examples) if e.task == task])


class SampleSet(Sequence[Example]):
    """All rows of one or more sample tables, decoded one by one when asked for."""

    def __init__(self, table: pa.Table, spec: DataSpec, origin: Origin | None = None) -> None:
        """Take a table in as many chunks as it comes in; nothing is copied or decoded."""
        self.table = table
        self.spec = spec
        self.origin = origin

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def _chunks(self) -> list["_Chunk"]:
        return [_Chunk(batch, self.spec) for batch in self.table.to_batches()]

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(len(chunk) for chunk in self._chunks)]

    def __getitem__(self, row: int) -> Example:  # type: ignore[override]
        """Decode row ``row``.

        Raises:
            DataError: the row's image cannot be decoded; the text names file, row and column of a
                set that was read from files.
        """
        if not 0 <= row < len(self):
            raise IndexError(row)
        chunk = bisect_right(self._starts, row) - 1
        try:
            return self._chunks[chunk].decode(row - self._starts[chunk])
        except DataError as error:
            if self.origin is None:
                raise
            came = f"{self.origin.place(row)}, column 'image': {error.came}"
            raise DataError(came, error.expected, error.remedy) from None


class _Chunk:
    """Rows whose columns lie end to end, ready to be indexed; mapped ones stay on the disk."""

    def __init__(self, batch: pa.RecordBatch, spec: DataSpec) -> None:
        self.spec = spec
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        self.words = {name: columns.get(name) for name in WORDS}
        self.images = columns.get("image") if spec.image else None
        self.arrays = {
            name: (_rows_of(column), column.is_valid().to_numpy(zero_copy_only=False))
            for name, column in columns.items()
            if isinstance(column.type, pa.FixedShapeTensorType)
        }
        self._num_rows = batch.num_rows

    def __len__(self) -> int:
        return int(self._num_rows)

    def decode(self, row: int) -> Example:
        words = {n: None if c is None else c[row].as_py() for n, c in self.words.items()}
        arrays = {name: a[row] for name, (a, valid) in self.arrays.items() if valid[row]}
        observed = {
            m: arrays.pop(f"{m}_mask").astype(bool) for m in SERIES if f"{m}_mask" in arrays
        }
        if self.images is not None and self.spec.image and self.images[row].is_valid:
            encoded = self.images[row].as_buffer()
            arrays["image"] = decode_image(encoded, self.spec.image.size_px)
        return Example(**words, arrays=arrays, observed=observed)  # type: ignore[arg-type]


def _rows_of(column: pa.FixedShapeTensorArray) -> np.ndarray:
    """Return the values of all rows, (rows, *shape), any where null; nothing is copied."""
    size = column.storage.type.list_size
    values = column.storage.values[column.offset * size : (column.offset + len(column)) * size]
    rows: np.ndarray = values.to_numpy(zero_copy_only=False)
    return rows.reshape(-1, *column.type.shape)


def decode_image(encoded: "bytes | pa.Buffer", size_px: int) -> np.ndarray:
    """Decode PNG or JPEG bytes to (S, S) float32 in [0, 1], grey, scaled to a square.

    Raises:
        DataError: the bytes are no image.
    """
    try:
        opened = Image.open(io.BytesIO(encoded))
        opened.load()
        image = opened if opened.mode == "L" else opened.convert("L")
    except MemoryError:
        raise
    except Exception as error:  # decoders fail in ways nobody can list, in words of the data's
        raise DataError(
            f"An image of {len(encoded)} bytes cannot be decoded ({type(error).__name__}).",
            "Images are whole PNG or JPEG files.",
            "Export the image again.",
        ) from None
    if image.size != (size_px, size_px):
        image = image.resize((size_px, size_px), Image.Resampling.BILINEAR)
    grey: np.ndarray = np.divide(np.asarray(image), np.float32(255.0), dtype=np.float32)
    return grey


def load_samples(
    folder: Folder,
    spec: DataSpec,
    modalities: Sequence[Modality] | None = None,
    rows: Sequence[int] | None = None,
) -> SampleSet:
    """Read the Parquet files directly inside ``folder``, in name order.

    Row group by row group: a set of ``mapped.MAPPED_FROM_BYTES`` or more lies on the local disk and
    not in memory.

    Args:
        folder: Where they are.
        spec: Shapes and units.
        modalities: Modalities whose columns are read; all where None. Who and what a row is, and
            its label, are always read.
        rows: Rows to read, by their place in all files end to end, in rising order, at least one;
            all where None. Row groups without any of them are left alone.

    Raises:
        DataError: there is no file, or one breaks the contract of the sample table.
    """
    names = folder.glob("*.parquet")
    if not names:
        raise DataError(
            f"There are no samples in {folder.url!r}.",
            "A task's folder has at least one Parquet file.",
            "Check data.root, or leave the task out with data.tasks.",
        )
    columns = None if modalities is None else sample_columns(modalities)
    parts = (
        stream_sample_rows(folder, names, spec, rows, columns)
        if rows is not None
        else chain.from_iterable(stream_samples(folder, name, spec, columns) for name in names)
    )
    present, num_rows = read_footers(folder, names, spec)
    schema = joined_schema(present if columns is None else present.intersection(columns), spec)
    table = gather((fit_columns(part, schema) for part in parts), schema)
    return SampleSet(table, spec, Origin(num_rows, rows))


def require_task(samples: SampleSet, task: TaskId, folder: Folder) -> None:
    """Refuse a row of another task, which may be one that no training is to see.

    Raises:
        DataError: naming the first such row.
    """
    require_all(
        pc.equal(samples.table["task"], task), folder, "task", f"All rows here belong to {task!r}."
    )


def require_all(good: pa.ChunkedArray, folder: Folder, column: str, expected: str) -> None:
    """Raise a ``DataError`` that names the first row of a folder that is not good."""
    row = pc.index(good, False).as_py()
    if row >= 0:
        raise DataError(
            f"Row {row} of {folder.url!r}, column {column!r} cannot be used.",
            expected,
            "Correct the source and import it again.",
        )


def collate(examples: Sequence[Example], spec: DataSpec) -> Batch:
    """Put examples side by side, standardised as their encoders expect."""
    inputs = {}
    for modality in spec.modalities:
        rows = [i for i, e in enumerate(examples) if modality in e.arrays]
        if rows:
            inputs[modality] = _stack(modality, [examples[i] for i in rows], rows, spec)
    return Batch(examples=tuple(examples), inputs=inputs)


def _stack(
    modality: Modality, examples: Sequence[Example], rows: Sequence[int], spec: DataSpec
) -> ModalityRows:
    values = torch.from_numpy(np.stack([e.arrays[modality] for e in examples]))
    index = torch.tensor(rows)
    if modality == "image":
        return ModalityRows(index, values[:, None].sub_(0.5).div_(0.25))
    if modality == "signal":
        return ModalityRows(index, values)
    observed = torch.from_numpy(np.stack([e.observed[modality] for e in examples]))
    return ModalityRows(index, standardise(values, observed, spec.series[modality]), observed)


def standardise(values_NHF: Tensor, observed_NHF: Tensor, spec: SeriesSpec) -> Tensor:
    """Return (x - center) / scale within +-CLIP, and 0 where nothing was observed."""
    center = torch.tensor([f.center for f in spec.features])
    scale = torch.tensor([f.scale for f in spec.features])
    z = ((values_NHF - center) / scale).clamp(-CLIP, CLIP)
    return torch.where(observed_NHF, z, torch.zeros_like(z))


def epoch_batches(
    num_examples: int, batch_size: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """Yield shuffled index lists that visit every example once.

    Args:
        num_examples: Examples in all.
        batch_size: Examples a batch; the last may have fewer.
        generator: Source of the order.
    """
    order = torch.randperm(num_examples, generator=generator).tolist()
    for start in range(0, num_examples, batch_size):
        yield order[start : start + batch_size]


def load_batches(
    examples: Sequence[Example],
    index_lists: Iterable[Sequence[int]],
    spec: DataSpec,
    workers: int = 1,
) -> Iterator[Batch]:
    """Yield the batches of index lists in their order, decoded ahead of whoever trains on them.

    Decoding releases the interpreter's lock, so threads serve and nothing is copied between
    processes. The order, and with it every number, does not depend on ``workers``.

    Args:
        examples: What the indices point into.
        index_lists: One list a batch.
        spec: Shapes and units.
        workers: Threads that decode; 0 decodes in the caller's.
    """
    if workers == 0:
        yield from (_decoded(examples, rows, spec) for rows in index_lists)
        return
    with ThreadPoolExecutor(workers, "decode") as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for rows in index_lists:
                waiting.append(pool.submit(_decoded, examples, rows, spec))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # the consumer may stop in the middle
            for future in waiting:
                future.cancel()


def _decoded(examples: Sequence[Example], rows: Sequence[int], spec: DataSpec) -> Batch:
    return collate([examples[i] for i in rows], spec)


class JoinedSamples(Sequence[Example]):
    """Several sample sets end to end, as one."""

    def __init__(self, parts: Mapping[TaskId, SampleSet]) -> None:
        self.parts = list(parts.values())
        self.starts = np.cumsum([0, *(len(p) for p in self.parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.parts[part][index - int(self.starts[part])]
