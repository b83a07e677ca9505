"""The real MIT-BIH records, where they are at hand (FEDKIM_TEST_MITBIH names their folder)."""

import os
from pathlib import Path

import numpy as np
import pytest
import wfdb

from fedkim_ray.data.importers.mitbih import OTHER_LEADS, MitBih, MitBihOptions
from fedkim_ray.data.importing.contract import Row
from fedkim_ray.data.importing.files import SourceFiles

BESIDE = Path(__file__).parents[3].parent / "shared" / "data" / "mitbih"
RECORDS = Path(os.environ.get("FEDKIM_TEST_MITBIH", BESIDE))


@pytest.fixture(scope="module")
def importer() -> MitBih:
    if not (RECORDS / "100.hea").is_file():
        pytest.skip("the MIT-BIH records are not here")
    return MitBih(SourceFiles.at(str(RECORDS)), MitBihOptions(), Path())


def rows_of(importer: MitBih, record: str, task: str) -> list[Row]:
    return [r for r in importer.rows(record) if isinstance(r, Row) and r.task == task]


def test_a_record_of_other_leads_is_left_out(tmp_path: Path) -> None:
    # Records 102 and 104 of the 48 have leads V5 and V2: that is no error of the source.
    beats = np.sin(np.arange(7200)).repeat(2).reshape(-1, 2)
    wfdb.wrsamp(
        "102", 360, ["mV"] * 2, ["V5", "V2"], beats, fmt=["212"] * 2, write_dir=str(tmp_path)
    )
    importer = MitBih(SourceFiles.at(str(tmp_path)), MitBihOptions(), Path())
    assert list(importer.rows("102")) == [OTHER_LEADS]


def test_half_an_hour_is_180_windows(importer: MitBih) -> None:
    # 650,000 samples at 360 Hz are 1805 s; record 100 has 33 premature atrial beats and one
    # ventricular, no two of which share all their windows.
    rows = rows_of(importer, "100", "ecg_abnormal")
    assert len(rows) == 180
    assert 20 < sum(row.label or 0 for row in rows) <= 34
    assert rows[0].signal is not None
    assert rows[0].signal.signal_CT.shape == (2, 3600)


def test_the_header_says_age_and_sex(importer: MitBih) -> None:
    # "69 M 1085 1629 x1" and "-1 M 742 654 x1": the second age is not known.
    stated = {r: rows_of(importer, r, "ecg_abnormal")[0] for r in ("100", "103")}
    assert {r: (row.age_years, row.sex) for r, row in stated.items()} == {
        "100": (69, "male"),
        "103": (None, "male"),
    }


def test_one_person_has_two_records(importer: MitBih) -> None:
    subjects = {rows_of(importer, record, "ecg_abnormal")[0].subject for record in ("201", "202")}
    assert subjects == {"201"}


def test_ectopic_beats_are_a_part_of_the_abnormal(importer: MitBih) -> None:
    # Record 231 has right bundle branch block: abnormal, with hardly an ectopic beat.
    abnormal = np.array([row.label for row in rows_of(importer, "231", "ecg_abnormal")])
    ectopic = np.array([row.label for row in rows_of(importer, "231", "ectopic_beats")])
    assert (abnormal >= ectopic).all()
    assert abnormal.sum() > 100
    assert ectopic.sum() < 5


def test_leads_are_known_by_name_not_by_place(importer: MitBih) -> None:
    # Record 114 has its chest lead first.
    signal = rows_of(importer, "114", "ecg_abnormal")[0].signal
    assert signal is not None
    assert list(signal.leads) == ["V", "MLII"]
