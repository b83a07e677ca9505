"""What the demo's real patients have in common: features with units and limits, and their rows.

One hour a row: each value stands for a day. A value outside the physiologically possible is a
charting error, counted and treated as missing; missing stays missing, with a mask.

Shape letters: N patients, H = 1 hour, F features.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedkim_ray.data.modalities import SERIES
from fedkim_ray.data.scales import Moments
from fedkim_ray.data.schema import FeatureSpec, SeriesSpec
from fedkim_ray.types import Modality, Task

_LIMITS: Mapping[Modality, tuple[tuple[str, str, float, float], ...]] = {
    "lab": (
        ("wblc", "10^3/uL", 0.0, 250.0),
        ("pafi", "mmHg", 20.0, 900.0),
        ("alb", "g/dL", 0.5, 8.0),
        ("bili", "mg/dL", 0.05, 80.0),
        ("crea", "mg/dL", 0.05, 30.0),
        ("sod", "mmol/L", 90.0, 200.0),
        ("ph", "1", 6.5, 8.0),
        ("glucose", "mg/dL", 5.0, 2000.0),
        ("bun", "mg/dL", 0.5, 300.0),
    ),
    "vital": (
        ("meanbp", "mmHg", 20.0, 250.0),
        ("hrt", "1/min", 20.0, 300.0),
        ("resp", "1/min", 3.0, 90.0),
        ("temp", "degC", 25.0, 45.0),
    ),
    "input": (
        ("norepinephrine", "ug/kg/min", 0.0, 5.0),
        ("phenylephrine", "ug/kg/min", 0.0, 15.0),
        ("vasopressin", "units/h", 0.0, 10.0),
        ("propofol", "ug/kg/min", 0.0, 300.0),
        ("fentanyl", "ug/h", 0.0, 1000.0),
        ("insulin", "units/h", 0.0, 50.0),
    ),
    "output": (("urine", "mL/day", 0.0, 20000.0),),
}
SPECS: Mapping[Modality, SeriesSpec] = {
    modality: SeriesSpec(
        hours=1,
        features=tuple(FeatureSpec(name=n, unit=u, low=lo, high=hi) for n, u, lo, hi in rows),
    )
    for modality, rows in _LIMITS.items()
}
"""Features of every series; ``low`` and ``high`` bound what is physiologically possible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patients:
    """N patients of one source; a modality that the source does not record is absent."""

    subject_ids: Sequence[str]
    died: np.ndarray
    """Death in hospital, (N,) bool."""
    sepsis: np.ndarray | None
    """(N,) bool where the source says so."""
    group: np.ndarray
    """Disease group, (N,) str: hospitals specialise, so it may decide where a patient is."""
    values: Mapping[Modality, np.ndarray]
    """(N, H, F) float32, zero where missing."""
    observed: Mapping[Modality, np.ndarray]
    """(N, H, F) uint8."""
    sex: Sequence[str | None] = ()
    """One of ``traits.SEXES`` a patient; empty where the source is not asked."""
    age_years: Sequence[int | None] = ()
    num_out_of_range: Mapping[str, int] = field(default_factory=dict)
    """Values outside a feature's limits, treated as missing, by feature."""

    num_of_other_unit: Mapping[str, int] = field(default_factory=dict)
    """Values in a unit that is not converted, not used, by feature."""

    def __len__(self) -> int:
        return len(self.subject_ids)

    def sex_of(self, index: int) -> str | None:
        """Return one patient's sex; None where not stated."""
        return self.sex[index] if self.sex else None

    def age_of(self, index: int) -> int | None:
        """Return one patient's age in years; None where not stated."""
        return self.age_years[index] if self.age_years else None

    def series(self, index: int) -> dict[Modality, np.ndarray]:
        """Return one patient's series, (H, F) float with NaN where nothing was observed."""
        return {
            m: np.where(self.observed[m][index], values[index], np.nan)
            for m, values in self.values.items()
        }

    def rows(self, which: Iterable[int], task: Task, place: str) -> list[dict[str, object]]:
        """Return sample-table rows of ``task`` (mortality or sepsis) for some patients."""
        labels = self.sepsis if task.id == "sepsis" else self.died
        assert labels is not None
        return [self._row(int(i), int(labels[i]), task, place) for i in which]

    def _row(self, index: int, label: int, task: Task, place: str) -> dict[str, object]:
        row: dict[str, object] = {
            "sample_id": f"{place}/{self.subject_ids[index]}",
            "subject_id": self.subject_ids[index],
            "task": task.id,
            "question": task.question,
            "answer": task.answer_words[label],
            "label": label,
        }
        if place.startswith("test/"):
            row |= {"sex": self.sex_of(index), "age_years": self.age_of(index)}
        for modality, values in self.values.items():
            if self.observed[modality][index].any():
                row[modality] = values[index]
                row[f"{modality}_mask"] = self.observed[modality][index]
        return row


def hold_to_limits(
    values_NF: np.ndarray, modality: Modality
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Split values into what was observed and what was not.

    Args:
        values_NF: Values in the features' units, NaN where missing.
        modality: A key of ``SPECS``.

    Returns:
        Values (N, 1, F) with zeros where missing, the mask (N, 1, F), and by feature the number
        of values outside its limits.
    """
    features = SPECS[modality].features
    low, high = np.array([f.low for f in features]), np.array([f.high for f in features])
    present = ~np.isnan(values_NF)
    possible = present & (values_NF >= low) & (values_NF <= high)
    refused = (present & ~possible).sum(0)
    kept = np.where(possible, values_NF, 0.0).astype(np.float32)
    counts = {f.name: int(n) for f, n in zip(features, refused, strict=True)}
    return kept[:, None], possible[:, None].astype(np.uint8), counts


def fit_scales(public_rows: Sequence[Mapping[str, object]]) -> dict[Modality, SeriesSpec]:
    """Return the specifications with center and scale of public training rows, of no others."""
    return {m: _moments(m, public_rows).fit(SPECS[m]) for m in SERIES}


def _moments(modality: Modality, rows: Sequence[Mapping[str, object]]) -> Moments:
    spec = SPECS[modality]
    carrying = [row for row in rows if modality in row]
    shape = (len(carrying), spec.hours, len(spec.features))
    moments = Moments.empty(len(spec.features))
    moments.add(
        np.array([row[modality] for row in carrying], np.float64).reshape(shape),
        np.array([row[f"{modality}_mask"] for row in carrying], bool).reshape(shape),
    )
    return moments
