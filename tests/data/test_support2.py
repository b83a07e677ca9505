"""SUPPORT2 from a table in the shipped layout, three patients long."""

from pathlib import Path

import numpy as np
import pytest

from fedkim_ray.data.demo.icu import SPECS, Patients, fit_scales
from fedkim_ray.data.demo.support2 import read_support2
from fedkim_ray.data.tasks import task_table
from fedkim_ray.errors import DataError

HEADER = (
    "sno,age,sex,hospdead,dzgroup,"
    "meanbp,wblc,hrt,resp,temp,pafi,alb,bili,crea,sod,ph,glucose,bun,urine"
)
# Patient 1 is complete; 2 lacks urine and albumin; 3 has no pulse and an albumin of 29 g/dL.
ROWS = (
    "1,62.8,m,0,Lung Cancer, 97.0, 6.0, 69.0,22,36.0,388.0,1.8,0.2,1.2,141,7.46, 90.0, 15.0,1500",
    "2,60.3,f,1,ARF/MOSF w/Sepsis,43.0,17.1,112.0,34,34.6, 98.0,, 0.9, 5.5,132,7.25,120.0, 30.0,",
    "3, 55.0,,0,Coma, 80.0, 9.0, 0.0,20,37.0,200.0,29.0, 1.0, 1.0,140,7.40,100.0, 20.0,0",
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "support2.csv"
    path.write_text("\n".join([HEADER, *ROWS]) + "\n")
    return path


def value(patients: Patients, modality: str, name: str, patient: int) -> float | None:
    column = [f.name for f in SPECS[modality].features].index(name)
    seen = bool(patients.observed[modality][patient, 0, column])
    return float(patients.values[modality][patient, 0, column]) if seen else None


def test_values_stand_under_their_names(table: Path) -> None:
    patients = read_support2(table)
    assert value(patients, "vital", "meanbp", 0) == 97.0
    assert value(patients, "lab", "sod", 1) == 132.0
    assert value(patients, "lab", "ph", 2) == pytest.approx(7.40)
    assert value(patients, "output", "urine", 0) == 1500.0
    assert patients.values["lab"].shape == (3, 1, 9)


def test_missing_stays_missing(table: Path) -> None:
    patients = read_support2(table)
    assert value(patients, "lab", "alb", 1) is None
    assert value(patients, "output", "urine", 1) is None
    # No urine in a day is an observation, not a gap.
    assert value(patients, "output", "urine", 2) == 0.0


def test_the_impossible_counts_as_missing(table: Path) -> None:
    patients = read_support2(table)
    assert value(patients, "vital", "hrt", 2) is None
    assert value(patients, "lab", "alb", 2) is None
    counts = {name: n for name, n in patients.num_out_of_range.items() if n}
    assert counts == {"hrt": 1, "alb": 1}


def test_labels(table: Path) -> None:
    patients = read_support2(table)
    assert patients.died.tolist() == [False, True, False]
    assert patients.sepsis is not None
    assert patients.sepsis.tolist() == [False, True, False]
    tasks = task_table()
    rows = patients.rows([1, 2], tasks["sepsis"], "test/sepsis")
    assert [row["label"] for row in rows] == [1, 0]
    assert [row["answer"] for row in rows] == ["Yes", "No"]
    assert [row["subject_id"] for row in rows] == ["support2/2", "support2/3"]


def test_test_rows_alone_have_sex_and_age(table: Path) -> None:
    patients, task = read_support2(table), task_table()["mortality"]
    asked = patients.rows([0, 1, 2], task, "test/mortality")
    assert [(r["sex"], r["age_years"]) for r in asked] == [
        ("male", 62),
        ("female", 60),
        (None, 55),
    ]
    assert "sex" not in patients.rows([0], task, "public/mortality/train")[0]


def test_a_series_without_observations_is_left_out_of_the_row(table: Path) -> None:
    rows = read_support2(table).rows([0, 1], task_table()["mortality"], "test/mortality")
    assert "output" in rows[0]
    assert "output" not in rows[1]
    assert "input" not in rows[0], "SUPPORT2 records no inputs"


def test_scales_come_from_the_rows_given(table: Path) -> None:
    # Sixteen public rows of two patients: creatinine 1.2 and 5.5, mean 3.35, deviation 2.15.
    public = read_support2(table).rows([0, 1] * 8, task_table()["mortality"], "public")
    lab = {f.name: f for f in fit_scales(public)["lab"].features}
    assert (lab["crea"].center, lab["crea"].scale) == pytest.approx((3.35, 2.15), rel=1e-5)
    # Albumin was measured in one patient only, so it does not vary: a sixth of 0.5 to 8 g/dL.
    assert lab["alb"].scale == pytest.approx(1.25)


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "support2.csv"
    path.write_text("sno,hospdead\n1,0\n")
    with pytest.raises(DataError, match=r"support2\.csv.*cannot be read as SUPPORT2.*hospdead"):
        read_support2(path)


def test_a_word_in_place_of_a_number_is_refused(table: Path) -> None:
    table.write_text(table.read_text().replace("97.0", "high"))
    with pytest.raises(DataError, match="numbers but for dzgroup and sex") as caught:
        read_support2(table)
    assert "high" not in str(caught.value)


def test_features_have_units_and_limits() -> None:
    features = [f for spec in SPECS.values() for f in spec.features]
    assert all(f.unit and f.low < f.high for f in features)
    assert len({f.name for f in features}) == len(features) == 20
    assert np.isfinite([f.scale for f in features]).all()
