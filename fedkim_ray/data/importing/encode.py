"""From a ``Row`` in the source's words to a row of the sample table, or a rejection.

Shape letters: H hours, F features.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from zlib import crc32

import numpy as np

from fedkim_ray.data.importing.contract import Row
from fedkim_ray.data.importing.keys import SubjectKey
from fedkim_ray.data.modalities import SERIES
from fedkim_ray.data.readers.images import encode_png
from fedkim_ray.data.readers.recordings import fit_recording
from fedkim_ray.data.reasons import rejected
from fedkim_ray.data.schema import DataSpec, SeriesSpec
from fedkim_ray.types import Modality, Task, TaskId


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes the rows of one import."""

    subjects: str
    """Name of the source's numbering of subjects."""
    source: str
    """The import's name."""
    tasks: Mapping[TaskId, Task]
    spec: DataSpec
    key: SubjectKey
    impossible: Literal["missing", "reject"]
    reword: bool = False
    """Whether a task's rewordings are dealt out among the examples."""
    out_of_range: Counter[str] = field(default_factory=Counter)
    """Impossible values that were taken as missing, by feature."""

    def encode(self, row: Row) -> dict[str, Any]:
        """Return the columns of one example.

        Raises:
            RowRejectedError: the row cannot be used.
        """
        task = self.tasks.get(row.task)
        if task is None:
            raise rejected("task_unknown")
        if not row.subject.strip():
            raise rejected("subject_missing")
        arrays = self._arrays(row, task)
        if not arrays and any(m in self.spec.modalities for m in task.modalities):
            raise rejected("nothing_carried")
        return {
            "sample_id": self.key.identifier(self.source, row.task, row.sample),
            "subject_id": self.subject_id(row.subject),
            "task": row.task,
            "question": row.question or self._wording(task, row.sample),
            "answer": _answer(row, task),
            "label": row.label if task.kind == "yes_no" else None,
            "text": row.text if "text" in task.modalities else None,
            "sex": row.sex,
            "age_years": row.age_years,
            "site": row.site.strip() or None,
            **arrays,
        }

    def _wording(self, task: Task, sample: str) -> str:
        """Return the task's question, or one of its wordings by the sample's name alone."""
        wordings = (task.question, *task.rewordings)
        return wordings[crc32(sample.encode()) % len(wordings)] if self.reword else task.question

    def subject_id(self, subject: str) -> str:
        """Return the keyed name of a subject."""
        return f"{self.subjects}/{self.key.identifier(self.subjects, subject.strip())}"

    def _arrays(self, row: Row, task: Task) -> dict[str, Any]:
        """Return the modalities that the row carries and the task reads."""
        arrays: dict[str, Any] = {}
        if row.image is not None and self.spec.image and "image" in task.modalities:
            arrays["image"] = encode_png(row.image, self.spec.image.size_px)
        if row.signal is not None and self.spec.signal and "signal" in task.modalities:
            arrays["signal"] = fit_recording(row.signal, self.spec.signal)
        given = [m for m in SERIES if m in row.series and m in task.modalities]
        for modality in given:
            values, seen = self._series(row.series[modality], modality)
            if seen.any():
                arrays |= {modality: values, f"{modality}_mask": seen}
        if given and not arrays:
            raise rejected("series_empty")
        return arrays

    def _series(self, values_HF: np.ndarray, modality: Modality) -> tuple[np.ndarray, np.ndarray]:
        """Return values (H, F) float32, zero where missing, and the mask (H, F) uint8."""
        spec = self.spec.series[modality]
        padding = spec.hours - len(values_HF)
        if padding < 0 or values_HF.shape[1:] != (len(spec.features),):
            shape = self.spec.shape(modality)
            raise ValueError(f"{modality} has shape {values_HF.shape} and not {shape}")
        values = np.pad(values_HF.astype(float), ((0, padding), (0, 0)), constant_values=np.nan)
        if np.isinf(values).any():
            raise rejected("not_finite", _first_feature(np.isinf(values), spec))
        low, high = np.array([(f.low, f.high) for f in spec.features]).T
        impossible = (values < low) | (values > high)
        if impossible.any():
            if self.impossible == "reject":
                raise rejected("value_impossible", _first_feature(impossible, spec))
            counts = zip(spec.features, impossible.sum(0).tolist(), strict=True)
            self.out_of_range.update({f.name: n for f, n in counts if n})
        seen = ~np.isnan(values) & ~impossible
        return np.where(seen, values, 0.0).astype(np.float32), seen.astype(np.uint8)


def _first_feature(where_HF: np.ndarray, spec: SeriesSpec) -> str:
    return spec.features[int(np.argmax(where_HF.any(0)))].name


def _answer(row: Row, task: Task) -> str:
    if task.kind == "yes_no":
        if row.label is None:
            raise rejected("label_missing")
        if row.label not in (0, 1):
            raise rejected("label_unknown")
        return task.answer_words[row.label]
    if not (row.answer or "").strip():
        raise rejected("label_missing")
    return str(row.answer).strip()
