"""What `fedkim data check` finds beyond files that are missing, foreign or altered."""

import io
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from fedkim_ray.cli.main import app
from fedkim_ray.data.checking import check_root
from fedkim_ray.data.root import CARD, DatasetCard, Source, write_card
from fedkim_ray.data.schema import DataSpec, ImageSpec, sample_table, write_samples
from fedkim_ray.storage import Folder

SPEC = DataSpec(image=ImageSpec(size_px=4))


def png() -> bytes:
    sink = io.BytesIO()
    Image.new("L", (4, 4), 9).save(sink, "PNG")
    return sink.getvalue()


def row(subject: str, task: str = "t", image: bytes | None = None) -> dict[str, object]:
    words = {"question": "?", "answer": "No", "label": 0}
    return {"sample_id": subject, "subject_id": subject, "task": task, "image": image, **words}


def write(root: Folder, place: str, *rows: dict[str, object]) -> None:
    write_samples(root, f"{place}/part-0.parquet", sample_table(rows, SPEC))


def with_card(root: Folder) -> Folder:
    source = Source(name="made up", kind="synthetic", licence="none", tasks=("t",))
    write_card(
        root, DatasetCard(name="x", sources=(source,), spec=SPEC, seed=0, split_rule="by hand")
    )
    return root


@pytest.fixture
def root(tmp_path: Path) -> Folder:
    folder = Folder.at(tmp_path)
    write(folder, "clients/a/t/train", row("p1", image=png()), row("p2", image=png()))
    write(folder, "clients/a/t/valid", row("p3", image=png()))
    return folder


def test_a_whole_root_has_no_problem(root: Folder) -> None:
    assert check_root(with_card(root), images=True) == []


def test_rows_of_another_task_are_found(root: Folder) -> None:
    write(root, "public/t/train", row("p4"), row("p5", task="u"))
    [problem] = check_root(with_card(root))
    assert problem == "public/t/train/part-0.parquet: it has rows of another task."


def test_a_subject_in_train_and_valid_is_found(root: Folder) -> None:
    write(root, "clients/a/t/valid", row("p1"))
    assert check_root(with_card(root)) == ["clients/a/t: a subject is in train and in valid."]


def test_broken_images_are_found_when_asked(root: Folder) -> None:
    write(root, "test/t", row("p6", image=png()), row("p7", image=png()[:30]))
    with_card(root)
    assert check_root(root) == []
    [problem] = check_root(root, images=True)
    assert "test/t/part-0.parquet', row 1, column 'image': An image of 30 bytes" in problem


def test_a_card_that_counts_wrongly_is_found(root: Folder) -> None:
    with_card(root)
    text = root.read_bytes(CARD).decode()
    root.write_bytes(CARD, text.replace('"num_examples": 2', '"num_examples": 7').encode())
    [problem] = check_root(root)
    assert problem.endswith("it has 2 rows; the card says 7.")


def test_the_exit_code_says_whether_all_is_well(root: Folder) -> None:
    with_card(root)
    assert CliRunner().invoke(app, ["data", "check", root.path, "--images"]).exit_code == 0
    write(root, "test/t", row("p7"))
    result = CliRunner().invoke(app, ["data", "check", root.path])
    assert result.exit_code == 1
    assert "the file is not on the card" in result.output
