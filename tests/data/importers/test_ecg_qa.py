"""ECG-QA: questions about noise, asked of PTB-XL's test patients alone."""

import shutil
from pathlib import Path

import pytest

from fedkim_ray.data.root import read_card
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder

from .imported import bring_in, examples_of
from .shipped_ecgs import Question, Record, write_ecg_qa, write_ptbxl

QUESTIONS = [
    Question([10], ["static noise", "burst noise"]),
    Question([10], ["none"]),
    Question([20], ["lead I"]),
    Question([1], ["none"]),
    Question([9], ["none"]),
    Question([10, 20], ["yes"]),
    Question([10], ["yes"], about="scp_code"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record 10 and 20 lie in fold 10, record 9 in fold 9."""
    folder = tmp_path_factory.mktemp("ecg_qa")
    write_ptbxl(folder, [Record(100 + i, 1 + i % 10) for i in range(20)])
    write_ecg_qa(folder, "train", QUESTIONS)
    write_ecg_qa(folder, "test", QUESTIONS[:1])
    return folder


def test_noise_of_one_record_is_asked(source: Path, tmp_path: Path) -> None:
    result = bring_in("ecg_qa", source, tmp_path / "root")
    examples = examples_of(tmp_path / "root", "signal_noise")
    answers = ["static noise, burst noise"] * 2 + ["none", "lead I"]
    assert sorted(e.answer for e in examples) == sorted(answers)
    assert examples[0].question.startswith("What kind of noise")
    assert examples[0].arrays["signal"].shape == (12, 1000)
    assert result.record.left_out == {
        "unseen task outside test": 2,
        "comparison of two records": 1,
    }


def test_beside_ptbxl_nobody_is_in_two_places(source: Path, tmp_path: Path) -> None:
    downloads, root = tmp_path / "downloads", tmp_path / "root"
    shutil.copytree(source / "ecgqa", downloads / "ecg_qa/ecgqa")
    shutil.copytree(source / "records100", downloads / "ptbxl/records100")
    shutil.copy(source / "ptbxl_database.csv", downloads / "ptbxl")
    bring_in("ptbxl", downloads / "ptbxl", root)
    options = {"questions": "ecg_qa/ecgqa/ptbxl/template", "ptbxl": "ptbxl"}
    bring_in("ecg_qa", downloads, root, options=options)
    asked = {e.subject_id for e in examples_of(root, "signal_noise")}
    assert asked == {e.subject_id for e in examples_of(root, "ectopic_beats")}
    assert len(read_card(Folder.at(root)).sources) == 2


def test_a_record_that_the_table_lacks_is_rejected(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "source"
    shutil.copytree(source, copy)
    write_ecg_qa(copy, "valid", [Question([99], ["none"]), Question([20], [])])
    with pytest.raises(DataError, match="2 of 9 examples cannot be used"):
        bring_in("ecg_qa", copy, tmp_path / "root")
    result = bring_in("ecg_qa", copy, tmp_path / "root", max_rejected=0.3)
    name = "ecgqa/ptbxl/template/valid/00000.json"
    assert result.rejected_places == (
        (name, 1, "ecg_id", "subject_missing"),
        (name, 2, "answer", "label_missing"),
    )
