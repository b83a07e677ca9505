"""From sample tables to batches of tensors.

Shape letters: N rows of one modality in a batch, S image side, C leads, T samples, H hours,
F features.
"""

import io
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fedkim_ray.data.modalities import SERIES
from fedkim_ray.data.schema import (
    DataSpec,
    SeriesSpec,
    join_tables,
    read_sample_rows,
    read_samples,
    sample_columns,
)
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder
from fedkim_ray.types import Modality, TaskId

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

    def __init__(self, table: pa.Table, spec: DataSpec) -> None:
        self.table = table.combine_chunks()
        self.spec = spec

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def _text_columns(self) -> dict[str, list[str | int | None]]:
        names = ("sample_id", "subject_id", "task", "question", "answer", "label", "text")
        present = set(self.table.column_names)
        return {n: self.table[n].to_pylist() if n in present else [None] * len(self) for n in names}

    @cached_property
    def _array_columns(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Per array column: values of all rows, any where null; and which rows are not."""
        columns = {}
        for name in self.table.column_names:
            column = self.table[name].combine_chunks()
            if isinstance(column.type, pa.FixedShapeTensorType) and len(column):
                valid = column.is_valid().to_numpy(zero_copy_only=False)
                flat = column.storage.values.to_numpy(zero_copy_only=False)
                columns[name] = (flat.reshape(-1, *column.type.shape), valid)
        return columns

    def __getitem__(self, row: int) -> Example:  # type: ignore[override]
        """Decode row ``row``.

        Raises:
            DataError: the row's image cannot be decoded.
        """
        text = {name: values[row] for name, values in self._text_columns.items()}
        arrays = {m: a[row] for m, (a, valid) in self._array_columns.items() if valid[row]}
        observed = {
            m: arrays.pop(f"{m}_mask").astype(bool) for m in SERIES if f"{m}_mask" in arrays
        }
        if "image" in self.table.column_names and self.spec.image:
            encoded = self.table["image"][row].as_py()
            if encoded is not None:
                arrays["image"] = decode_image(encoded, self.spec.image.size_px)
        return Example(**text, arrays=arrays, observed=observed)  # type: ignore[arg-type]


def decode_image(encoded: bytes, size_px: int) -> np.ndarray:
    """Decode PNG or JPEG bytes to (S, S) float32 in [0, 1], grey, scaled to a square.

    Raises:
        DataError: the bytes are no image.
    """
    try:
        opened = Image.open(io.BytesIO(encoded))
        opened.load()
        image = opened if opened.mode == "L" else opened.convert("L")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
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
    if rows is None:
        tables = [read_samples(folder, name, spec, columns) for name in names]
    else:
        tables = read_sample_rows(folder, names, spec, rows, columns)
    return SampleSet(join_tables(tables, spec), spec)


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
    num_examples: int, batch_size: int, generator: torch.Generator, first_batch: int = 0
) -> Iterator[list[int]]:
    """Yield shuffled index lists that visit every example once.

    Args:
        num_examples: Examples in all.
        batch_size: Examples a batch; the last may have fewer.
        generator: Source of the order; an epoch advances it by the same amount wherever it starts.
        first_batch: Where to go on in an epoch that was interrupted.
    """
    order = torch.randperm(num_examples, generator=generator).tolist()
    for start in range(first_batch * batch_size, num_examples, batch_size):
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
