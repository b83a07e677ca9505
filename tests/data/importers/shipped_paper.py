"""A folder with a small download of every data set of the paper; all numbers are made up."""

from pathlib import Path

from .shipped_ecgs import Question, Record, write_ecg_qa, write_ptbxl
from .shipped_icu import add_stay, at, empty_tables, write_mimic3
from .shipped_images import write_chexpert, write_covid, write_rsna, write_slake, write_vqa_rad

STATEMENTS = ("{'NORM': 100.0}", "{'SR': 0.0, 'IMI': 80.0}")


def write_paper(folder: Path, size: int = 60) -> None:
    """Write all eight; the trained tasks have ``size`` patients or more."""
    kinds = ("Lung Opacity", "Normal")
    write_rsna(folder / "rsna", [(f"image-{i:03d}", kinds[i % 2]) for i in range(size)])
    write_covid(folder / "covid_radiography", size // 2, size // 2)
    records = [
        Record(i, 1 + i % 10, STATEMENTS[i // 10 % 2], "2ES" * (i // 10 % 2))
        for i in range(2 * size)
    ]
    write_ptbxl(folder / "ptbxl", records)
    questions = [Question([10 * (i + 1)], [("none", "static noise")[i % 2]]) for i in range(6)]
    write_ecg_qa(folder / "ecg_qa", "test", questions)
    _write_mimic3(folder / "mimic3", size)
    write_chexpert(folder / "chexpert", [(str(float(i % 2)),) * 3 for i in range(8)])
    write_vqa_rad(
        folder / "vqa_rad", [(f"synpic{i}.jpg", str(i), "freeform", "Yes") for i in range(4)]
    )
    write_slake(folder / "slake", 4)


def _write_mimic3(folder: Path, size: int) -> None:
    tables = empty_tables()
    for number in range(size):
        ill = number % 2
        admission = add_stay(tables, number, hours=40, died=ill, codes=["99592"] * ill)
        facts = {"HADM_ID": admission, "ITEMID": 220045, "VALUEUOM": "bpm"}
        tables["CHARTEVENTS"] += [
            {**facts, "CHARTTIME": at(hour), "VALUENUM": 80 + 20 * ill} for hour in range(0, 40, 4)
        ]
    write_mimic3(folder, tables)
