"""From tables of events to events of the stays in question: feature, second, value in its unit.

``kind`` says how an hour's events become one number: the mean of measurements, the sum of volumes,
or an infusion's rate over the part of the hour that it ran.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.mimic3.csv_stream import csv_batches
from fedkim_ray.data.mimic3.features import (
    BY_WEIGHT,
    FAHRENHEIT,
    FEATURES,
    FRACTION,
    VOLUME,
    Feature,
)
from fedkim_ray.data.mimic3.stays import SECONDS
from fedkim_ray.types import Modality

MEAN, SUM, INFUSION = 0, 1, 2
SCHEMA = pa.schema(
    [
        ("stay", pa.int32()),
        ("feature", pa.int16()),
        ("kind", pa.int8()),
        ("second", pa.int32()),
        ("lasts", pa.int32()),
        ("value", pa.float32()),
    ]
)
"""``stay`` is the row of the table of stays; ``second`` counts from the stay's start; ``value`` is
NaN where an input is on record and cannot be used: something was given, and nobody knows how much.
"""
GATHERED_ROWS = 1 << 18
"""Events that are gathered before they are divided: many small slices would cost more."""


@dataclass(frozen=True, slots=True)
class EventTable:
    """How a table of the source is read."""

    modality: Modality
    time: str
    value: str
    unit: str
    kind: int
    """Of its events without an end."""
    end: str = ""
    amount: tuple[str, str] = ("", "")
    """Columns of amount and its unit, which count for fluids."""
    flaw: tuple[str, str] = ("", "")
    """Column and text of rows that the hospital took back."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns in use."""
        named = (self.time, self.end, self.value, self.unit, *self.amount, self.flaw[0])
        return tuple(dict.fromkeys(("HADM_ID", "ITEMID", *(c for c in named if c))))


AMOUNT = ("AMOUNT", "AMOUNTUOM")
TABLES: Mapping[str, EventTable] = {
    "CHARTEVENTS": EventTable("vital", "CHARTTIME", "VALUENUM", "VALUEUOM", MEAN,
                              flaw=("ERROR", "1")),
    "LABEVENTS": EventTable("lab", "CHARTTIME", "VALUENUM", "VALUEUOM", MEAN),
    "INPUTEVENTS_MV": EventTable("input", "STARTTIME", "RATE", "RATEUOM", MEAN, "ENDTIME", AMOUNT,
                                 ("STATUSDESCRIPTION", "Rewritten")),
    "INPUTEVENTS_CV": EventTable("input", "CHARTTIME", "RATE", "RATEUOM", MEAN, "", AMOUNT),
    "OUTPUTEVENTS": EventTable("output", "CHARTTIME", "VALUE", "VALUEUOM", SUM,
                               flaw=("ISERROR", "1")),
}  # fmt: skip
CHECKED_UNITS = ("lab", "input")
"""Modalities whose units are compared; charted vital signs have one unit an item, or none."""


@dataclass(slots=True)
class EventReader:
    """Reads one table's events of the stays."""

    files: SourceFiles
    stays: pa.Table
    max_hours: int
    unused: Counter[str] = field(default_factory=Counter)
    """Values that are impossible, or of a unit that is not known, by feature."""

    def events(self, name: str) -> Iterator[pa.Table]:
        """Yield the table's events, about ``GATHERED_ROWS`` at a time, of ``SCHEMA``."""
        table = TABLES[name]
        types = {"VALUE": pa.float64()}
        gathered: list[pa.Table] = []
        for batch in csv_batches(self.files, f"{name}.csv.gz", table.columns, types):
            events = self._of_batch(table, batch)
            gathered.append(events)
            if sum(part.num_rows for part in gathered) >= GATHERED_ROWS:
                yield pa.concat_tables(gathered).combine_chunks()
                gathered = []
        if gathered:
            yield pa.concat_tables(gathered).combine_chunks()

    def _of_batch(self, table: EventTable, batch: pa.Table) -> pa.Table:
        items = _items(table.modality)
        batch = batch.filter(pc.is_in(batch["ITEMID"], pa.array(list(items), pa.int64())))
        stay = pc.index_in(batch["HADM_ID"], self.stays["HADM_ID"].combine_chunks())
        present = pc.and_(pc.is_valid(stay), pc.is_valid(batch[table.time]))
        if table.flaw[0]:
            flawed = pc.equal(batch[table.flaw[0]], table.flaw[1])
            present = pc.and_(present, pc.invert(pc.fill_null(flawed, False)))
        batch, stay = batch.filter(present), stay.filter(present).to_numpy()
        second = _seconds(batch[table.time]) - self.stays["start"].to_numpy()[stay]
        hours = np.minimum(self.stays["hours"].to_numpy()[stay], self.max_hours)
        within = (second < hours * SECONDS) & (second >= (0 if not table.end else -self._far))
        batch = batch.filter(pa.array(within))
        return self._make(table, batch, stay[within], second[within])

    @property
    def _far(self) -> int:
        """Seconds before the stay that an infusion may have begun."""
        return 7 * 24 * SECONDS

    def _make(
        self, table: EventTable, batch: pa.Table, stay: np.ndarray, second: np.ndarray
    ) -> pa.Table:
        items = _items(table.modality)
        item = batch["ITEMID"].to_numpy()
        feature = np.array([items[i] for i in item.tolist()], np.int16)
        fluid = np.isin(feature, VOLUME) if table.modality == "input" else np.zeros(len(item), bool)
        value, recorded = self._values(table, batch, item, feature, fluid)
        possible = self._possible(table.modality, feature, value)  # a fluid's amount, not its rate
        lasts = np.zeros(len(item), np.int64)
        kind = np.where(fluid, SUM, table.kind)
        if table.end:
            lasts = np.maximum(_seconds(batch[table.end]) - second - self._starts(stay), 60)
            kind = np.full(len(item), INFUSION)
            value = np.where(fluid, value * SECONDS / lasts, value)
        value = np.where(possible, value, np.nan)
        kept = recorded if table.modality == "input" else possible
        use = kept & (second + lasts >= 0)
        columns: tuple[np.ndarray, ...] = (stay, feature, kind, second, lasts, value)
        return pa.table(
            [pa.array(c[use], f.type, safe=False) for c, f in zip(columns, SCHEMA, strict=True)],
            schema=SCHEMA,
        )

    def _starts(self, stay: np.ndarray) -> np.ndarray:
        starts: np.ndarray = self.stays["start"].to_numpy()[stay]
        return starts

    def _values(
        self,
        table: EventTable,
        batch: pa.Table,
        item: np.ndarray,
        feature: np.ndarray,
        fluid: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return values in the features' units, and whether there is any in whatever unit.

        Values are NaN where there is none or the unit is unknown.
        """
        value = _floats(batch[table.value])
        factor = np.ones(len(value))
        if table.modality in CHECKED_UNITS:
            factor = self._factors(table.modality, feature, batch[table.unit])
        if fluid.any():
            value = np.where(fluid, _floats(batch[table.amount[0]]), value)
            of_amount = self._factors(table.modality, feature, batch[table.amount[1]])
            factor = np.where(fluid, of_amount, factor)
        factor = np.where(np.isin(item, BY_WEIGHT), np.nan, factor)
        recorded = ~np.isnan(value)
        if table.modality == "input":  # nothing is nothing in any unit
            factor = np.where(value == 0, 1.0, factor)
        unknown = np.isnan(factor) & recorded
        self._count(table.modality, feature[unknown], " (unit)")
        value = np.where(np.isin(item, FAHRENHEIT), (value - 32) / 1.8, value * factor)
        scaled: np.ndarray = np.where(np.isin(item, FRACTION), value * 100, value)
        return scaled, recorded

    def _factors(
        self, modality: Modality, feature: np.ndarray, units: pa.ChunkedArray
    ) -> np.ndarray:
        """Return each row's factor from its unit; 1 where the table names none, NaN if unknown."""
        encoded = units.combine_chunks().dictionary_encode()
        names = [(name or "").strip().lower() for name in encoded.dictionary.to_pylist()]
        table = np.array([[_factor(f, name) for name in names] + [1.0] for f in FEATURES[modality]])
        code = pc.fill_null(encoded.indices, len(names)).to_numpy(zero_copy_only=False)
        factors: np.ndarray = table[feature, code]
        return factors

    def _possible(self, modality: Modality, feature: np.ndarray, value: np.ndarray) -> np.ndarray:
        low, high = np.array([(f.low, f.high) for f in FEATURES[modality]]).T
        present = ~np.isnan(value)
        possible: np.ndarray = present & (value >= low[feature]) & (value <= high[feature])
        self._count(modality, feature[present & ~possible], "")
        return possible

    def _count(self, modality: Modality, feature: np.ndarray, suffix: str) -> None:
        for place, number in zip(*np.unique(feature, return_counts=True), strict=True):
            self.unused[FEATURES[modality][int(place)].name + suffix] += int(number)


def _items(modality: Modality) -> dict[int, int]:
    """Return the feature's place by item."""
    return {i: place for place, f in enumerate(FEATURES[modality]) for i in f.items}


def _factor(feature: Feature, unit: str) -> float:
    if unit in ("", feature.unit.lower()):
        return 1.0
    return feature.factors.get(unit, np.nan)


def _seconds(column: pa.ChunkedArray) -> np.ndarray:
    seconds: np.ndarray = pc.cast(column, pa.int64()).to_numpy()
    return seconds


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    values: np.ndarray = pc.fill_null(column, np.nan).to_numpy()
    return values.astype(np.float64)
