"""What a data root holds, counted row group by row group: it may be of any size.

Shape letters: N rows, H hours, F features.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedkim_ray.data.root import DatasetCard, place_of_file
from fedkim_ray.data.sample_files import stream_samples
from fedkim_ray.data.scales import Moments
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.storage import Folder
from fedkim_ray.types import Modality, TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureFacts:
    """One measured quantity in one place."""

    name: str
    unit: str
    observed: float
    """Share of all hours in which it was measured."""
    ever_observed: float
    """Share of examples in which it was measured at least once."""
    mean: float | None
    """Of the measured values; None where there is none."""
    deviation: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceFacts:
    """The rows of one task in one place: a client's training set, say."""

    place: str
    """``clients/<client>``, ``public`` or ``test``."""
    split: str
    """``train``, ``valid`` or ``test``."""
    task: TaskId
    num_examples: int
    num_subjects: int
    num_yes: int | None
    """Rows with label 1; None where the task has no labels."""
    carrying: dict[Modality, int]
    """Rows that carry a modality."""
    features: dict[Modality, tuple[FeatureFacts, ...]]

    @property
    def name(self) -> str:
        """Place and split, as people say them."""
        place = self.place.removeprefix("clients/")
        return place if self.split == "test" or place == "public" else f"{place}, {self.split}"

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def survey(root: Folder, card: DatasetCard) -> list[PlaceFacts]:
    """Count every set of a data root.

    Raises:
        DataError: a file breaks the contract.
    """
    folders = sorted({name.rsplit("/", 1)[0] for name in card.files})
    return [_survey_folder(root, folder, card) for folder in folders]


def _survey_folder(root: Folder, folder: str, card: DatasetCard) -> PlaceFacts:
    counts = _Counts(card.spec)
    for name in sorted(name for name in card.files if name.rsplit("/", 1)[0] == folder):
        for table in stream_samples(root, name, card.spec):
            counts.add(table)
    place = place_of_file(folder)
    rest = folder.removeprefix(f"{place}/").split("/")
    return PlaceFacts(
        place=place,
        split=rest[1] if len(rest) > 1 else "test",
        task=rest[0],
        num_examples=counts.num_rows,
        num_subjects=len(counts.subjects),
        num_yes=counts.num_yes if counts.num_labels else None,
        carrying=dict(counts.carrying),
        features={m: tuple(counts.features(m)) for m in counts.moments},
    )


@dataclass(slots=True)
class _Counts:
    spec: DataSpec
    num_rows: int = 0
    num_labels: int = 0
    num_yes: int = 0
    subjects: set[str] = field(default_factory=set)
    carrying: dict[Modality, int] = field(default_factory=dict)
    moments: dict[Modality, Moments] = field(default_factory=dict)
    ever: dict[Modality, np.ndarray] = field(default_factory=dict)

    def add(self, table: pa.Table) -> None:
        self.num_rows += table.num_rows
        self.subjects |= set(pc.unique(table["subject_id"]).to_pylist())
        if "label" in table.column_names:
            self.num_labels += table.num_rows - table["label"].null_count
            self.num_yes += pc.sum(table["label"]).as_py() or 0
        for modality in self.spec.modalities:
            if modality in table.column_names:
                present = table.num_rows - table[modality].null_count
                self.carrying[modality] = self.carrying.get(modality, 0) + present
                if modality in self.spec.series:
                    self._add_series(modality, table)

    def _add_series(self, modality: Modality, table: pa.Table) -> None:
        num_features = len(self.spec.series[modality].features)
        moments = self.moments.setdefault(modality, Moments.empty(num_features))
        ever = self.ever.setdefault(modality, np.zeros(num_features))
        rows = table.filter(table[modality].is_valid())
        if rows.num_rows:
            values = rows[modality].combine_chunks().to_numpy_ndarray()
            seen = rows[f"{modality}_mask"].combine_chunks().to_numpy_ndarray()
            moments.add(values, seen)
            ever += seen.any(1).sum(0)

    def features(self, modality: Modality) -> Iterator[FeatureFacts]:
        spec, moments = self.spec.series[modality], self.moments[modality]
        rows = max(self.num_rows, 1)
        for j, feature in enumerate(spec.features):
            n = moments.count[j]
            yield FeatureFacts(
                name=feature.name,
                unit=feature.unit,
                observed=float(n / (rows * spec.hours)),
                ever_observed=float(self.ever[modality][j] / rows),
                mean=float(moments.mean[j]) if n else None,
                deviation=float(np.sqrt(moments.squares[j] / n)) if n else None,
            )
