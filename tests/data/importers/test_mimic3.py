"""MIMIC-III: a stay's events in hourly grids, in one unit a feature."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fedkim_ray.data.importers.mimic3 import Mimic3, Mimic3Options
from fedkim_ray.data.importing.contract import Row
from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.mimic3 import events as events_module
from fedkim_ray.data.mimic3.csv_stream import csv_batches
from fedkim_ray.data.mimic3.events import INFUSION, SCHEMA
from fedkim_ray.data.mimic3.features import FEATURES
from fedkim_ray.data.mimic3.grids import grid
from fedkim_ray.errors import DataError
from fedkim_ray.types import Modality

from .imported import bring_in, bytes_of, examples_of
from .shipped_icu import add_stay, at, empty_tables, write_mimic3


def column(modality: Modality, name: str) -> int:
    return [f.name for f in FEATURES[modality]].index(name)


@pytest.fixture(scope="module")
def importer(tmp_path_factory: pytest.TempPathFactory) -> Mimic3:
    """One stay of 30 hours with a few events of every table, and what must not count."""
    source, tables = tmp_path_factory.mktemp("mimic3"), empty_tables()
    admission = add_stay(tables, 7, hours=30, died=1, codes=["4019", "99592"])
    short = add_stay(tables, 8, hours=12)
    tables["ADMISSIONS"].append(
        {
            "SUBJECT_ID": 9,
            "HADM_ID": 100_009,
            "ADMISSION_TYPE": "NEWBORN",
            "HOSPITAL_EXPIRE_FLAG": 0,
        }
    )
    stay = {"HADM_ID": admission, "SUBJECT_ID": 7}
    chart = [
        (220045, 0.5, 80, "bpm", ""), (211, 0.75, 90, "BPM", ""), (220045, 1.5, 70, "bpm", ""),
        (220045, 1.6, 700, "bpm", ""), (220045, 1.7, 10, "bpm", "1"), (223761, 2.0, 98.6, "?F", ""),
        (676, 3.0, 37.5, "Deg. C", ""), (190, 4.0, 0.5, "torr", ""), (999, 1.0, 5, "", ""),
        (220045, 29.5, 60, "bpm", ""), (220045, 30.5, 61, "bpm", ""), (220045, -0.0, 75, "bpm", ""),
    ]  # fmt: skip
    tables["CHARTEVENTS"] += [
        {
            **stay,
            "ITEMID": i,
            "CHARTTIME": at(t),
            "VALUE": v,
            "VALUENUM": v,
            "VALUEUOM": u,
            "ERROR": e,
        }
        for i, t, v, u, e in chart
    ]
    labs = [(50983, 1.0, 140, "mEq/L"), (50912, 1.0, 1.5, "mg/dL"), (50912, 2.0, 132, "umol/L")]
    tables["LABEVENTS"] += [
        {**stay, "ITEMID": i, "CHARTTIME": at(t), "VALUE": v, "VALUENUM": v, "VALUEUOM": u}
        for i, t, v, u in labs
    ]
    tables["LABEVENTS"].append(
        {"SUBJECT_ID": 7, "ITEMID": 50912, "CHARTTIME": at(1), "VALUENUM": 9}
    )
    drip = {**stay, "ITEMID": 221906, "STARTTIME": at(0.5), "ENDTIME": at(2.5)}
    drip |= {"RATE": 0.2, "RATEUOM": "mcg/kg/min", "STATUSDESCRIPTION": "FinishedRunning"}
    saline = {**stay, "ITEMID": 225158, "STARTTIME": at(4), "ENDTIME": at(6), "AMOUNT": 1}
    saline |= {"AMOUNTUOM": "L", "STATUSDESCRIPTION": "FinishedRunning"}
    bolus = {**saline, "STARTTIME": at(8.5), "ENDTIME": at(8.5 + 1 / 60), "AMOUNT": 0.5}
    tables["INPUTEVENTS_MV"] += [drip, {**drip, "STATUSDESCRIPTION": "Rewritten"}, saline, bolus]
    too_much = {**drip, "ITEMID": 221662, "STARTTIME": at(1.5), "ENDTIME": at(3), "RATE": 900}
    tables["INPUTEVENTS_MV"].append(too_much)
    by_weight = {**stay, "ITEMID": 30120, "CHARTTIME": at(10), "RATE": 5, "RATEUOM": "mcgmin"}
    levophed = {**by_weight, "ITEMID": 30047, "CHARTTIME": at(12), "RATEUOM": ""}
    stopped = {**levophed, "CHARTTIME": at(13), "RATE": 0}
    ringer = {**stay, "ITEMID": 30021, "CHARTTIME": at(11), "AMOUNT": 250, "AMOUNTUOM": "ml"}
    tables["INPUTEVENTS_CV"] += [by_weight, levophed, stopped, ringer]
    tables["OUTPUTEVENTS"] += [
        {**stay, "ITEMID": i, "CHARTTIME": at(t), "VALUE": v, "VALUEUOM": "mL", "ISERROR": e}
        for i, t, v, e in [(226559, 5.2, 100, ""), (40055, 5.8, 50, ""), (226559, 5.9, 70, "1")]
    ]
    tables["OUTPUTEVENTS"].append(
        {"HADM_ID": short, "ITEMID": 226559, "CHARTTIME": at(1), "VALUE": 9}
    )
    write_mimic3(source, tables)
    made = Mimic3(SourceFiles.at(str(source)), Mimic3Options(), tmp_path_factory.mktemp("scratch"))
    made.prepare()
    return made


@pytest.fixture(scope="module")
def stay(importer: Mimic3) -> dict[str, Row]:
    rows = [row for item in importer.items() for row in importer.rows(item)]
    return {row.task: row for row in rows if isinstance(row, Row)}


def cell(row: Row, modality: Modality, name: str, hour: int) -> float:
    return float(row.series[modality][hour, column(modality, name)])


def test_one_stay_is_two_questions(stay: dict[str, Row]) -> None:
    assert (stay["mortality"].label, stay["sepsis"].label) == (1, 1)
    assert stay["mortality"].series["vital"].shape == (24, 12)
    assert stay["sepsis"].series["lab"].shape == (30, 25)
    assert sum(len(features) for features in FEATURES.values()) == 48


def test_an_hour_is_the_mean_of_its_values(stay: dict[str, Row]) -> None:
    row = stay["sepsis"]
    # 75, 80 and 90 of two systems; 700 is impossible, and 10 was taken back.
    assert cell(row, "vital", "heart_rate", 0) == pytest.approx(245 / 3)
    assert cell(row, "vital", "heart_rate", 1) == 70
    assert cell(row, "vital", "heart_rate", 29) == 60
    assert np.isnan(cell(row, "vital", "heart_rate", 2))


def test_units_are_one(stay: dict[str, Row]) -> None:
    row = stay["mortality"]
    assert cell(row, "vital", "temperature", 2) == pytest.approx(37.0)
    assert cell(row, "vital", "temperature", 3) == 37.5
    assert cell(row, "vital", "fio2", 4) == 50
    assert cell(row, "lab", "sodium", 1) == 140
    assert cell(row, "lab", "creatinine", 1) == 1.5
    assert np.isnan(cell(row, "lab", "creatinine", 2))


def test_inputs_run_and_outputs_add_up(stay: dict[str, Row]) -> None:
    row = stay["mortality"]
    # 0.2 ug/kg/min from 0:30 to 2:30; a litre over two hours; half a litre in the one minute that
    # the source writes for a bolus; 250 mL at once.
    rates = [cell(row, "input", "norepinephrine", hour) for hour in range(4)]
    assert rates == pytest.approx([0.1, 0.2, 0.1, 0.0])
    fluids = [cell(row, "input", "crystalloid", hour) for hour in (3, 4, 5, 6, 8, 11)]
    assert fluids == pytest.approx([0, 500, 500, 0, 500, 250])
    assert cell(row, "output", "urine", 5) == 150
    assert np.isnan(cell(row, "output", "urine", 6))


def test_an_input_that_cannot_be_converted_is_missing_and_not_none(stay: dict[str, Row]) -> None:
    row = stay["mortality"]
    # Rates by weight at 10:00 and 12:00, nothing at 13:00; 900 ug/kg/min from 1:30 to 3:00.
    rates = [cell(row, "input", "norepinephrine", hour) for hour in (9, 10, 11, 12, 13)]
    np.testing.assert_array_equal(rates, [0, np.nan, 0, np.nan, 0])
    rates = [cell(row, "input", "dopamine", hour) for hour in range(4)]
    np.testing.assert_array_equal(rates, [0, np.nan, np.nan, 0])


def test_what_is_not_used_is_counted(importer: Mimic3, stay: dict[str, Row]) -> None:
    assert stay
    assert dict(importer.unused_values) == {
        "heart_rate": 1,
        "creatinine (unit)": 1,
        "norepinephrine (unit)": 2,
        "dopamine": 1,
    }


def test_an_infusion_begun_earlier_counts_from_the_start() -> None:
    # From an hour before the stay to 1:15 after it, at 4 units an hour.
    columns = ([0], [5], [INFUSION], [-3600], [8100], [4.0])
    table = pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], SCHEMA.names
    )
    assert grid(table, 1, 3, 7)[0, :2, 5].tolist() == [4.0, 1.0]


def test_a_table_that_is_done_is_not_read_again(
    importer: Mimic3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = shutil.copytree(importer.scratch, tmp_path / "scratch")
    again = Mimic3(importer.files, importer.options, scratch)
    read: list[str] = []
    monkeypatch.setattr(
        events_module, "csv_batches", lambda files, name, *rest: read.append(name) or iter(())
    )
    again.prepare()
    assert read == []
    (scratch / "LABEVENTS.json").unlink()
    again.prepare()
    assert read == ["LABEVENTS.csv.gz"]


def test_patients_end_up_in_one_place_each(tmp_path: Path) -> None:
    tables = empty_tables()
    for number in range(60):
        admission = add_stay(
            tables, 5_000_000 + number, died=number % 2, codes=["78552"] * (number % 2)
        )
        facts = {"HADM_ID": admission, "ITEMID": 220045, "VALUEUOM": "bpm"}
        tables["CHARTEVENTS"] += [
            {**facts, "CHARTTIME": at(hour), "VALUENUM": 70 + number % 2} for hour in range(30)
        ]
    write_mimic3(tmp_path / "source", tables)
    result = bring_in("mimic3", tmp_path / "source", tmp_path / "root", rule={"test_share": 0.3})
    counts = result.record.counts
    assert sum(tasks["mortality"] for tasks in counts.values()) == 60
    assert counts["test"]["sepsis"] == counts["test"]["mortality"]
    (example, *_) = examples_of(tmp_path / "root", "mortality", "test")
    assert example.arrays["vital"].shape == (168, 12)
    assert example.observed["vital"][:, 0].sum() == 24
    (septic, *_) = examples_of(tmp_path / "root", "sepsis")
    assert septic.observed["vital"][:, 0].sum() == 30
    assert septic.observed["input"].sum() == 168 * 7
    assert b"5000001" not in bytes_of(tmp_path / "root")


def test_another_database_is_refused(tmp_path: Path) -> None:
    tables = empty_tables()
    tables["D_ITEMS"] = [{"ITEMID": 1, "LABEL": "else"}]
    write_mimic3(tmp_path / "source", tables)
    with pytest.raises(DataError, match=r"D_ITEMS.csv.gz has no item of heart_rate, systolic_bp"):
        bring_in("mimic3", tmp_path / "source", tmp_path / "root")


def test_a_cut_download_is_refused(tmp_path: Path) -> None:
    tables = empty_tables()
    add_stay(tables, 1)
    write_mimic3(tmp_path / "source", tables)
    whole = (tmp_path / "source/D_ITEMS.csv.gz").read_bytes()
    (tmp_path / "source/D_ITEMS.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"D_ITEMS.csv.gz' cannot be read as a table"):
        bring_in("mimic3", tmp_path / "source", tmp_path / "root")
    with pytest.raises(DataError, match=r"D_ITEMS.csv.gz' cannot be read \(OSError\)"):
        list(csv_batches(SourceFiles.at(str(tmp_path / "source")), "D_ITEMS.csv.gz", ("ITEMID",)))


def test_a_stay_that_says_too_little_is_rejected_by_its_row(tmp_path: Path) -> None:
    tables = empty_tables()
    for number in range(20):
        add_stay(tables, 4_100_000 + number, died=number % 2)
    tables["ICUSTAYS"][3] = {**tables["ICUSTAYS"][3], "SUBJECT_ID": ""}
    tables["ADMISSIONS"][5] = {**tables["ADMISSIONS"][5], "HOSPITAL_EXPIRE_FLAG": ""}
    tables["ADMISSIONS"][7] = {**tables["ADMISSIONS"][7], "ADMISSION_TYPE": "NEWBORN"}
    tables["ICUSTAYS"][9] = {**tables["ICUSTAYS"][9], "OUTTIME": ""}
    tables["ICUSTAYS"].append({**tables["ICUSTAYS"][0], "INTIME": at(210), "OUTTIME": at(250)})
    write_mimic3(tmp_path / "source", tables)
    result = bring_in("mimic3", tmp_path / "source", tmp_path / "root", max_rejected=0.1)
    assert sorted(result.rejected_places) == [
        ("ICUSTAYS.csv.gz", 4, "SUBJECT_ID", "subject_missing"),
        ("ICUSTAYS.csv.gz", 6, "HOSPITAL_EXPIRE_FLAG", "label_missing"),
    ]
    left_out = result.record.left_out
    assert left_out["stay without admission, beginning or end"] == 1
    assert left_out["later stay of an admission"] == 1
    assert left_out["stay of a newborn or of no known admission"] == 1
    assert b"4100001" not in bytes_of(tmp_path / "root")


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [("CHARTEVENTS", "VALUENUM", "Canary"), ("ICUSTAYS", "INTIME", "Canary")],
)
def test_a_value_of_another_type_is_named_by_row_and_column(
    tmp_path: Path, table: str, column: str, value: str
) -> None:
    tables = empty_tables()
    admission = add_stay(tables, 1)
    event = {"HADM_ID": admission, "ITEMID": 220045, "CHARTTIME": at(1), "VALUENUM": 70}
    tables["CHARTEVENTS"] += [event, event]
    tables[table][-1] = {**tables[table][-1], column: value}
    write_mimic3(tmp_path / "source", tables)
    row = len(tables[table])
    told = rf"'{table}.csv.gz' cannot be read at row {row}, column '{column}'"
    with pytest.raises(DataError, match=told) as caught:
        bring_in("mimic3", tmp_path / "source", tmp_path / "root")
    assert value not in str(caught.value)
