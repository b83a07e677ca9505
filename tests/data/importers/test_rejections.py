"""What every importer of a published data set owes: a bad row named, and nobody's number kept.

MIMIC-III's tables have tests of their own, in ``test_mimic3.py``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from fedkim_ray.errors import DataError

from .imported import bring_in, bytes_of
from .shipped_ecgs import Question, Record, write_ecg_qa, write_ptbxl
from .shipped_images import write_chexpert, write_covid, write_rsna, write_slake, write_vqa_rad


class Case(NamedTuple):
    """One data set with one example that cannot be used."""

    importer: str
    write: Callable[[Path], object]
    damaged: str
    """This file is gone."""
    told: tuple[str, int | None, str, str]
    """Place, row, column and reason of the rejection."""
    numbers: tuple[str, ...]
    """Of subjects, as the source writes them."""


def write_ecgs(folder: Path) -> None:
    write_ptbxl(folder, [Record(7_654_300 + i, 1 + i % 10) for i in range(20)])
    write_ecg_qa(folder, "test", [Question([10], ["none"]), Question([20], ["none"])])


RAD = [(f"synpic{54_610 + i}.jpg", str(i), "freeform", "Yes") for i in range(6)]
CASES = [
    Case(
        "rsna",
        lambda folder: write_rsna(folder, [(f"0a-{i:03d}", "Normal") for i in range(30)]),
        "stage_2_train_images/0a-007.dcm",
        ("stage_2_train_images/0a-007.dcm", None, "patientId", "file_missing"),
        ("0a-007", "0a-008"),
    ),
    Case(
        "ptbxl",
        write_ecgs,
        "records100/00000/00004_lr.dat",
        ("ptbxl_database.csv", 4, "filename_lr", "file_missing"),
        ("7654303", "7654304", "00004_lr"),
    ),
    Case(
        "ecg_qa",
        write_ecgs,
        "records100/00000/00020_lr.dat",
        ("ecgqa/ptbxl/template/test/00000.json", 2, "ecg_id", "file_missing"),
        ("7654309", "7654319", "00010_lr"),
    ),
    Case(
        "chexpert",
        lambda folder: write_chexpert(folder, [("0.0", "1.0", "0.0")] * 6),
        "valid/patient64542/study1/view1_frontal.jpg",
        ("valid.csv", 3, "Path", "file_missing"),
        ("patient64541", "patient64542", "64543"),
    ),
    Case(
        "vqa_rad",
        lambda folder: write_vqa_rad(folder, RAD),
        "images/synpic54613.jpg",
        ("VQA_RAD Dataset Public.json", 4, "image_name", "file_missing"),
        ("synpic54613", "synpic54610"),
    ),
    Case(
        "slake",
        lambda folder: write_slake(folder, 8),
        "Slake1.0/imgs/xmlab5/source.jpg",
        ("Slake1.0/validate.json", 3, "img_name", "file_missing"),
        ("xmlab5", "xmlab1"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.importer)
def test_a_bad_row_is_named_and_nobodys_number_is_kept(case: Case, tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    case.write(source)
    (source / case.damaged).unlink()
    with pytest.raises(DataError, match=f"cannot be used: {case.told[3]} 1") as caught:
        bring_in(case.importer, source, root, max_rejected=0.0)
    result = bring_in(case.importer, source, root, max_rejected=0.5)
    assert result.rejected_places == (case.told,)
    files = " ".join(path.name for path in root.rglob("*"))
    for number in case.numbers:
        assert number not in str(caught.value)
        assert number not in files
        assert number.encode() not in bytes_of(root)


def test_an_image_without_patients_is_named_by_its_file(tmp_path: Path) -> None:
    write_covid(tmp_path / "source", 15, 15)
    whole = (tmp_path / "source/Normal/images/Normal-3.png").read_bytes()
    (tmp_path / "source/Normal/images/Normal-3.png").write_bytes(whole[:100])
    result = bring_in("covid_radiography", tmp_path / "source", tmp_path / "root", max_rejected=0.5)
    assert result.rejected_places == (("Normal/images/Normal-3.png", None, "", "image_corrupt"),)
    assert b"Normal-3" not in bytes_of(tmp_path / "root")
