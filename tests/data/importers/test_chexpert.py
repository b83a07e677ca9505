"""CheXpert: three findings of each image, each from its own column."""

import gzip
from pathlib import Path

import pytest

from fedkim_ray.data.importers.chexpert import COLUMN_OF, PATIENT, CheXpert, CheXpertOptions
from fedkim_ray.data.importing.contract import LeftOut
from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.importing.layout import check_layout
from fedkim_ray.data.packages import fetch_package_file

from .imported import bring_in, bytes_of, examples_of
from .shipped_images import write_chexpert

FINDINGS = [
    ("1.0", "0.0", "0.0"),
    ("0.0", "1.0", "0.0"),
    ("0.0", "0.0", "1.0"),
    ("0.0", "", "-1.0"),
]
TABLE_SHA256 = "cdd70817ac2f13e464d2e35de78cd6831b10382c869c3824c35b44f55928becb"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chexpert")
    write_chexpert(folder, FINDINGS)
    return folder


def test_each_finding_has_its_own_column(source: Path, tmp_path: Path) -> None:
    result = bring_in("chexpert", source, tmp_path / "root", options={"size_px": 16})
    # Blank is "not mentioned" and counts as no; the one uncertain effusion is left out.
    counts = {"enlarged_cardiomediastinum": 4, "atelectasis": 4, "pleural_effusion": 3}
    assert result.record.counts == {"test": counts}
    assert result.record.left_out == {"uncertain finding": 1}
    for task, labels in {
        "enlarged_cardiomediastinum": [1, 0, 0, 0],
        "atelectasis": [0, 1, 0, 0],
        "pleural_effusion": [0, 0, 1],
    }.items():
        examples = examples_of(tmp_path / "root", task)
        assert [e.label for e in examples] == labels
        assert len({e.subject_id for e in examples}) == 2
        assert examples[0].arrays["image"].shape == (16, 16)
    assert b"patient64541" not in bytes_of(tmp_path / "root")


def test_what_is_uncertain_may_count(source: Path, tmp_path: Path) -> None:
    options = {"uncertain": "yes", "views": "frontal", "size_px": 16}
    result = bring_in("chexpert", source, tmp_path / "root", options=options)
    assert result.record.left_out == {"lateral view": 2}
    bring_in("chexpert", source, tmp_path / "all", options={"uncertain": "yes", "size_px": 16})
    labels = [e.label for e in examples_of(tmp_path / "all", "pleural_effusion")]
    assert labels == [0, 0, 1, 1]


def test_a_missing_image_is_one_rejection(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_chexpert(source, [*FINDINGS, ("2.0", "0.0", "0.0")])
    (source / "valid/patient64541/study1/view1_frontal.jpg").unlink()
    result = bring_in("chexpert", source, tmp_path / "root", max_rejected=0.5)
    assert result.rejected_places == (
        ("valid.csv", 1, "Path", "file_missing"),
        ("valid.csv", 5, "Enlarged Cardiomediastinum", "label_unknown"),
    )


def test_check_names_what_a_download_lacks(source: Path, tmp_path: Path) -> None:
    layout = CheXpert(SourceFiles.at(str(source)), CheXpertOptions(), tmp_path).layout()
    assert check_layout(SourceFiles.at(str(source)), layout) == []
    (tmp_path / "valid.csv").write_text("Path,Frontal/Lateral,Atelectasis\n")
    (first, second) = check_layout(SourceFiles.at(str(tmp_path)), layout)
    assert first.endswith("lacks the column 'Enlarged Cardiomediastinum', 'Pleural Effusion'")
    assert second.startswith("no file 'valid/patient*/study*/view*_*.jpg'")


@pytest.mark.slow
def test_the_real_label_table(tmp_path: Path) -> None:
    """The training set's table, as package torchxrayvision carries it."""
    member = "torchxrayvision/data/chexpert_train.csv.gz"
    path = fetch_package_file("torchxrayvision", "1.5.7", member, TABLE_SHA256)
    (tmp_path / "train.csv").write_bytes(gzip.decompress(path.read_bytes()))
    options = CheXpertOptions(table="train.csv")
    importer = CheXpert(SourceFiles.at(str(tmp_path)), options, tmp_path)
    assert len(importer.items()) == 223_414
    counts = {}
    for task, column in COLUMN_OF.items():
        labels = [importer._label(text, column) for text in importer._table[column].to_pylist()]
        counts[task] = (labels.count(1), labels.count(None))
    # Positive and uncertain images; 223,414 and 64,540 are the owner's figures.
    assert counts == {
        "enlarged_cardiomediastinum": (10_798, 12_403),
        "atelectasis": (33_376, 33_739),
        "pleural_effusion": (86_187, 11_628),
    }
    matches = [PATIENT.search(path) for path in importer._table["Path"].to_pylist()]
    assert len({match[1] for match in matches if match}) == 64_540
    # Without the images, a row is rejected as one.
    (made,) = importer.rows(0)
    assert not isinstance(made, LeftOut)
    assert made.reason == "file_missing"  # type: ignore[union-attr]
