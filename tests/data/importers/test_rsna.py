"""RSNA: one row an image, however many boxes it has."""

import csv
import io
import json
import zipfile
from pathlib import Path

import pytest

from fedkim_ray.data.importers.rsna import Rsna
from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.importing.published import ImageOptions
from fedkim_ray.data.packages import fetch_package_file

from .imported import bring_in, bytes_of, examples_of
from .shipped_images import write_rsna

NEITHER = "No Lung Opacity / Not Normal"
LABELS_SHA256 = "73044dc075ffa05bde37b6c6165661a87d7c3fd0fdd277f909945e11263c06b0"
SMALL = {"size_px": 16}


def classes(num_images: int) -> list[tuple[str, str]]:
    """One image in three of each class; those with opacity have two boxes."""
    kinds = ("Lung Opacity", "Normal", NEITHER)
    rows = [(f"image-{i:04d}", kinds[i % 3]) for i in range(num_images)]
    return [row for row in rows for _ in range(2 if row[1] == "Lung Opacity" else 1)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rsna")
    write_rsna(folder, classes(90))
    return folder


def test_boxes_are_not_examples(source: Path, tmp_path: Path) -> None:
    result = bring_in("rsna", source, tmp_path / "root", options=SMALL)
    # 90 images: 30 with opacity in 60 rows, 30 normal, 30 neither.
    examples = examples_of(tmp_path / "root", "lung_opacity")
    assert len(examples) == 60
    assert sum(e.label or 0 for e in examples) == 30
    assert result.record.left_out == {f"class {NEITHER!r}": 30}
    assert len({e.subject_id for e in examples}) == 60
    assert b"image-0000" not in bytes_of(tmp_path / "root")


def test_with_the_mapping_the_split_is_by_person(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "source"
    copy.mkdir()
    write_rsna(copy, classes(30))
    people = [
        {"subset_img_id": f"image-{i:04d}", "img_id": f"{i // 10:08d}_{i % 10:03d}.png"}
        for i in range(30)
    ]
    (copy / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(people))
    bring_in("rsna", copy, tmp_path / "root", options=SMALL, rule={"clients": 1})
    examples = examples_of(tmp_path / "root", "lung_opacity")
    assert len({e.subject_id for e in examples}) == 3


def test_a_broken_image_and_an_unknown_class_are_rejected(tmp_path: Path) -> None:
    source = tmp_path / "source"
    rows = [*classes(60), ("odd", "Perhaps"), ("both", "Normal"), ("both", "Lung Opacity")]
    write_rsna(source, [*rows, ("../../out", "Normal")])
    (source / "stage_2_train_images/image-0001.dcm").write_bytes(b"\0" * 128 + b"DICM broken")
    (source / "stage_2_train_images/image-0004.dcm").unlink()
    result = bring_in("rsna", source, tmp_path / "root", options=SMALL, max_rejected=0.2)
    assert sorted((place, reason) for place, *_, reason in result.rejected_places) == [
        ("stage_2_train_images/../../out.dcm", "path_escapes"),
        ("stage_2_train_images/both.dcm", "label_unknown"),
        ("stage_2_train_images/image-0001.dcm", "image_corrupt"),
        ("stage_2_train_images/image-0004.dcm", "file_missing"),
        ("stage_2_train_images/odd.dcm", "label_unknown"),
    ]


@pytest.mark.slow
def test_the_real_boxes(tmp_path: Path) -> None:
    """The table of boxes, as package torchxrayvision carries it, in place of the classes."""
    member = "torchxrayvision/data/kaggle_stage_2_train_labels.csv.zip"
    path = fetch_package_file("torchxrayvision", "1.5.7", member, LABELS_SHA256)
    with zipfile.ZipFile(path) as archive, archive.open("stage_2_train_labels.csv") as raw:
        boxes = list(csv.DictReader(io.TextIOWrapper(raw)))
    assert len(boxes) == 30_227
    (tmp_path / "stage_2_train_images").mkdir()
    with (tmp_path / "stage_2_detailed_class_info.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("patientId", "class"))
        table.writerows(
            (box["patientId"], "Lung Opacity" if box["Target"] == "1" else "Normal")
            for box in boxes
        )
    items = Rsna(SourceFiles.at(str(tmp_path)), ImageOptions(), tmp_path).items()
    kinds = [str(item[1]) for item in items if isinstance(item, tuple)]
    # 26,684 images, 6,012 of them with boxes: the owner's figures.
    assert (len(kinds), kinds.count("Lung Opacity")) == (26_684, 6_012)
