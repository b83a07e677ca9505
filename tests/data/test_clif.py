"""The CLIF tables, two patients long: who, which day, and mean rates of infusions."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedkim_ray.data.demo.clif import TIMES, read_clif
from fedkim_ray.data.demo.icu import SPECS, Patients

START = datetime(2100, 1, 1, 8, tzinfo=UTC)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def value(patients: Patients, modality: str, name: str, patient: int) -> float | None:
    column = [f.name for f in SPECS[modality].features].index(name)
    seen = bool(patients.observed[modality][patient, 0, column])
    return float(patients.values[modality][patient, 0, column]) if seen else None


def tables() -> dict[str, dict[str, list[object]]]:
    """Patient A: a first stay a1 and a second stay a2 a month later. Patient B: b1, who died."""
    return {
        "hospitalization": {
            "hospitalization_id": ["a2", "a1", "b1", "w"],
            "patient_id": ["A", "A", "B", "A"],
            "discharge_category": ["Expired", "Home", "Expired", "Home"],
        },
        "vitals": {
            "hospitalization_id": ["a1", "a1", "a1", "a1", "a2", "b1", "b1"],
            "recorded_dttm": [at(0), at(2), at(25), at(3), at(720), at(0), at(1)],
            "vital_category": ["heart_rate"] * 3 + ["map", "heart_rate", "heart_rate", "map"],
            "vital_value": [80.0, 100.0, 200.0, 801.0, 60.0, 120.0, 55.0],
        },
        "labs": {
            "hospitalization_id": ["a1", "a1", "w"],
            "lab_result_dttm": [at(1), at(2), at(1)],
            "lab_category": ["po2_arterial", "creatinine", "creatinine"],
            "lab_value_numeric": [90.0, 1.5, 9.0],
        },
        "respiratory_support": {
            "hospitalization_id": ["a1", "a1"],
            "recorded_dttm": [at(0), at(2)],
            "fio2_set": [0.4, 0.5],
        },
        # One order of two drugs. Norepinephrine: 0.2 for 6 h, 0.1 for 12 h: (1.2 + 1.2) / 24 = 0.1.
        # Propofol: from 18 h on, past the day's end: 40 * 6 / 24 = 10.
        "medication_admin_continuous": {
            "hospitalization_id": ["a1"] * 5,
            "med_order_id": ["7"] * 5,
            "med_category": ["norepinephrine", "propofol"] + ["norepinephrine"] * 2 + ["propofol"],
            "admin_dttm": [at(0), at(18), at(6), at(18), at(30)],
            "med_dose": [0.2, 40.0, 0.1, 0.0, 0.0],
            "med_dose_unit": ["mcg/kg/min"] * 5,
        },
    }


@pytest.fixture
def patients(tmp_path: Path) -> Patients:
    return read(tables(), tmp_path)


def read(tables: dict[str, dict[str, list[object]]], folder: Path, num_parts: int = 1) -> Patients:
    paths = {name: folder / f"{name}.parquet" for name in tables}
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), paths[name])
    return read_clif(paths, num_parts)


def test_the_first_stay_of_each_patient_counts(patients: Patients) -> None:
    assert list(patients.subject_ids) == ["clif/A", "clif/B"]
    assert patients.died.tolist() == [False, True]


def test_a_value_is_the_mean_of_the_first_day(patients: Patients) -> None:
    assert value(patients, "vital", "hrt", 0) == 90.0
    assert value(patients, "vital", "meanbp", 1) == 55.0
    assert value(patients, "lab", "crea", 0) == 1.5
    assert value(patients, "lab", "crea", 1) is None


def test_oxygen_quotient_is_that_of_the_means(patients: Patients) -> None:
    assert value(patients, "lab", "pafi", 0) == pytest.approx(200.0)


def test_an_impossible_pressure_is_missing_and_counted(patients: Patients) -> None:
    assert value(patients, "vital", "meanbp", 0) is None
    assert patients.num_out_of_range["meanbp"] == 1


def test_inputs_are_rates_weighted_by_time(patients: Patients) -> None:
    assert value(patients, "input", "norepinephrine", 0) == pytest.approx(0.1)
    assert value(patients, "input", "propofol", 0) == pytest.approx(10.0)
    # Every infusion is charted, so none on record is an observed zero.
    assert value(patients, "input", "norepinephrine", 1) == 0.0


def test_a_row_without_a_time_is_of_no_day(patients: Patients, tmp_path: Path) -> None:
    untimed = tables()
    for name, time in TIMES.items():
        for column, values in untimed[name].items():
            values.append(None if column == time else values[0])
    made = read(untimed, tmp_path)
    for modality, values in patients.values.items():
        np.testing.assert_array_equal(made.values[modality], values)


def test_a_rate_that_cannot_be_used_is_missing_where_it_holds(tmp_path: Path) -> None:
    own = tables()
    # Propofol runs from 18 h on: in a unit without the weight it is known for the day's first part.
    units = own["medication_admin_continuous"]["med_dose_unit"]
    units[1] = "mg/hour"
    made = read(own, tmp_path, num_parts=2)
    propofol = [f.name for f in SPECS["input"].features].index("propofol")
    assert made.observed["input"][0, :, propofol].tolist() == [1, 0]
    assert made.num_of_other_unit["propofol"] == 1
    own["medication_admin_continuous"]["med_dose"][1] = 0.0  # nothing, in whatever unit
    assert read(own, tmp_path).observed["input"][0, 0, propofol] == 1


@pytest.mark.parametrize("unit", ["Units/hour", "units/hr", " units/h"])
def test_units_are_known_in_any_spelling(tmp_path: Path, unit: str) -> None:
    own = tables()
    medication = own["medication_admin_continuous"]
    medication["med_category"] = ["insulin"] * 5
    medication["med_dose"], medication["med_dose_unit"] = [2.4] * 5, [unit] * 5
    # 2.4 units an hour all day long.
    assert value(read(own, tmp_path), "input", "insulin", 0) == pytest.approx(2.4)
