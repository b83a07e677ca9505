"""The card of a data root, and the rule that no subject is in two places."""

from pathlib import Path

import pytest

from fedkim_ray.data.checking import check_root
from fedkim_ray.data.root import (
    DatasetCard,
    Source,
    read_card,
    require_no_shared_subjects,
    write_card,
)
from fedkim_ray.data.schema import DataSpec, sample_table, write_samples
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder

SPEC = DataSpec()


def write(root: Folder, place: str, *subjects: str) -> None:
    task = place.removeprefix("clients/").split("/")[1]
    words = {"task": task, "text": "note", "question": "?", "answer": "No", "label": 0}
    rows = [{"sample_id": s, "subject_id": s, **words} for s in subjects]
    write_samples(root, f"{place}/part-0.parquet", sample_table(rows, SPEC))


def card(**values: object) -> DatasetCard:
    source = Source(name="made up", kind="synthetic", licence="CC0-1.0", tasks=("t",))
    facts = {"name": "x", "sources": (source,), "spec": SPEC, "seed": 0, "split_rule": "by hand"}
    return DatasetCard.model_validate({**facts, **values})


@pytest.fixture
def root(tmp_path: Path) -> Folder:
    folder = Folder.at(tmp_path)
    write(folder, "clients/a/t/train", "p1", "p2")
    write(folder, "clients/a/t/valid", "p3")
    write(folder, "clients/b/u/train", "p4")
    write(folder, "public/t/train", "p5")
    write(folder, "test/t", "p6", "p7", "p8")
    return folder


def test_the_card_counts_what_is_there(root: Folder) -> None:
    written = write_card(root, card())
    assert read_card(root) == written
    assert written.clients == ("a", "b")
    assert written.tasks_of("a") == ("t",)
    assert written.num_examples("clients/a/") == 3
    assert written.num_examples("test/") == 3
    assert written.num_examples("") == 8
    assert check_root(root) == []


def test_kinds_of_a_task() -> None:
    real = Source(name="r", kind="real", licence="MIT", tasks=("t", "u"))
    both = card(sources=(real, *card().sources))
    assert [both.kind_of(t) for t in ("t", "u", "v")] == ["real and synthetic", "real", "unknown"]


def test_a_fingerprint_changes_with_the_data_under_it(root: Folder) -> None:
    before = write_card(root, card())
    write(root, "clients/b/u/train", "p9")
    after = write_card(root, card())
    assert before.fingerprint("clients/a/") == after.fingerprint("clients/a/")
    assert before.fingerprint("clients/b/") != after.fingerprint("clients/b/")


@pytest.mark.parametrize(
    ("place", "subject", "other"),
    [
        ("clients/b/t/train", "p1", "clients/a"),
        ("public/u/train", "p3", "clients/a"),
        ("test/u", "p5", "public"),
    ],
)
def test_a_shared_subject_is_refused_without_naming_it(
    root: Folder, place: str, subject: str, other: str
) -> None:
    write(root, place, subject)
    with pytest.raises(DataError, match=r"has a subject that .* has too") as caught:
        write_card(root, card())
    assert other in str(caught.value) or place in str(caught.value)
    assert subject not in str(caught.value).replace("part", "")
    with pytest.raises(DataError, match="no data root"):
        read_card(root)


def test_a_subject_may_have_several_tasks_in_one_place(root: Folder) -> None:
    write(root, "test/u", "p6")
    require_no_shared_subjects(root, write_card(root, card()))
    assert check_root(root) == []


def test_a_missing_card_is_no_data_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data root at .*fedkim data demo"):
        read_card(Folder.at(tmp_path / "nowhere"))


def test_a_card_of_another_version_is_refused(root: Folder) -> None:
    write_card(root, card())
    text = root.read_bytes("dataset.json").decode()
    root.write_bytes("dataset.json", text.replace('version": 1', 'version": 2').encode())
    with pytest.raises(DataError, match=r"dataset\.json' cannot be used: \('format_version',\)"):
        read_card(root)


def test_check_names_every_altered_missing_and_foreign_file(root: Folder, tmp_path: Path) -> None:
    write_card(root, card())
    write(root, "test/t", "p60")
    write(root, "test/new", "p61")
    (tmp_path / "public/t/train/part-0.parquet").unlink()
    assert sorted(check_root(root)) == [
        "public/t/train/part-0.parquet: the file is missing.",
        "test/new/part-0.parquet: the file is not on the card.",
        "test/t/part-0.parquet: the file was altered after it was written.",
    ]
