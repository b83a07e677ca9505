"""One import from end to end, on twenty-four short records."""

import json
import multiprocessing
import shutil
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fedkim_ray.data.checking import check_root
from fedkim_ray.data.importing import pool
from fedkim_ray.data.importing.request import ImportRequest
from fedkim_ray.data.importing.run import run_import
from fedkim_ray.data.loading import load_samples
from fedkim_ray.data.root import CARD, place_of_file, read_card, subjects_of
from fedkim_ray.data.tasks import task_table
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder


def request(source: Path | str, root: Path | str, **fields: object) -> ImportRequest:
    values = {"importer": "mitbih", "source": str(source), "root": str(root), "workers": 1}
    return ImportRequest(**{**values, **fields})  # type: ignore[arg-type]


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def homes(root: Path | str) -> dict[str, str]:
    """Place of every subject."""
    folder = Folder.at(root)
    card = read_card(folder)
    return {s: place_of_file(n) for n in card.files for s in subjects_of(folder, n, card.spec)}


@pytest.fixture(scope="module")
def root(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    run_import(request(records, folder))
    return folder


def test_an_import_gives_a_whole_root(root: Path) -> None:
    card = read_card(Folder.at(root))
    assert check_root(Folder.at(root)) == []
    assert card.clients == ("client-0", "client-1", "client-2")
    assert card.kind_of("ecg_abnormal") == "real"
    # Two windows a record; those of the unseen task lie in test alone.
    trained = sum(f.num_examples for n, f in card.files.items() if "ecg_abnormal" in n)
    assert trained == 48
    assert card.num_examples("test/ectopic_beats/") == card.num_examples("test/ecg_abnormal/") > 0
    assert not [name for name in card.files if "ectopic" in name and "test/" not in name]
    assert not (root / ".import").exists()


def test_what_is_not_used_is_counted(root: Path) -> None:
    record = json.loads((root / "imports/mitbih/import.json").read_text())
    card = read_card(Folder.at(root))
    ectopic = card.num_examples("test/ectopic_beats/")
    assert record["left_out"] == {"unseen task outside test": 48 - ectopic}
    assert record["num_rows"] == 96


def test_a_window_keeps_its_label(root: Path) -> None:
    card = read_card(Folder.at(root))
    folders = {name.rsplit("/", 1)[0] for name in card.files if "/ecg_abnormal" in name}
    examples = [e for f in folders for e in load_samples(Folder.at(root) / f, card.spec)]
    # A quarter of the records have one abnormal beat, in their second window.
    assert sum(e.label or 0 for e in examples) == 6
    assert examples[0].arrays["signal"].shape == (2, 1000)


def test_nothing_tells_who_a_subject_is(root: Path) -> None:
    for content in files_of(root).values():
        assert b"/322" not in content
        assert b'"322"' not in content


def test_a_whole_import_is_left_as_it_is(records: Path, root: Path) -> None:
    before = files_of(root)
    assert run_import(request(records, root)).unchanged
    assert files_of(root) == before


def test_workers_do_not_change_the_result(
    records: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "ALONE_S", 0.0)
    run_import(request(records, tmp_path / "root", workers=2))
    assert files_of(tmp_path / "root") == files_of(root)


def test_an_interrupted_import_goes_on(records: Path, root: Path, tmp_path: Path) -> None:
    def stop_halfway(done: int, total: int, note: str) -> None:
        if done == 12:
            raise KeyboardInterrupt

    target = tmp_path / "root"
    with pytest.raises(KeyboardInterrupt):
        run_import(request(records, target), stop_halfway)
    assert not (target / CARD).exists()
    seen: list[int] = []
    run_import(request(records, target), lambda done, total, note: seen.append(done))
    assert seen[1] == 12, "the first twelve units are not read again"
    assert files_of(target) == files_of(root)


def test_what_an_interrupted_import_leaves_is_for_its_owners_eyes(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDKIM_SCRATCH", str(tmp_path / "scratch"))

    def stop(done: int, total: int, note: str) -> None:
        if note == "reading":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_import(request(records, tmp_path / "root"), stop)
    [left] = (tmp_path / "scratch/imports").iterdir()
    assert stat.S_IMODE(left.stat().st_mode) == 0o700
    run_import(request(records, tmp_path / "root"))
    assert not left.exists()


def test_two_roots_have_a_scratch_folder_each(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDKIM_SCRATCH", str(tmp_path / "scratch"))

    def another(done: int, total: int, note: str) -> None:
        if done == 3:
            run_import(request(records, tmp_path / "other"))
            assert len(list((tmp_path / "scratch/imports").iterdir())) == 1, "the first one's"

    run_import(request(records, tmp_path / "root"), another)


def test_an_interrupted_import_leaves_no_worker(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "ALONE_S", 0.0)

    def stop_soon(done: int, total: int, note: str) -> None:
        if done == 3:
            assert multiprocessing.active_children()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_import(request(records, tmp_path / "root", workers=2), stop_soon)
    assert not multiprocessing.active_children()


def test_adding_data_moves_no_one(
    records: Path, root: Path, tmp_path: Path, write_record: Callable[..., None]
) -> None:
    source, target = tmp_path / "source", tmp_path / "root"
    shutil.copytree(records, source)
    shutil.copytree(root, target)
    for number in range(6):
        write_record(source, f"more{number}")
    run_import(request(source, target, again=True))  # from another folder
    before, after = homes(root), homes(target)
    assert len(after) == 30
    assert {subject: after[subject] for subject in before} == before


def test_a_question_may_be_asked_in_all_its_wordings(records: Path, tmp_path: Path) -> None:
    run_import(request(records, tmp_path, reword=True))
    card = read_card(Folder.at(tmp_path))
    folders = {name.rsplit("/", 1)[0] for name in card.files if "/ecg_abnormal" in name}
    examples = [e for f in folders for e in load_samples(Folder.at(tmp_path) / f, card.spec)]
    asked = Counter(example.question for example in examples)
    task = task_table()["ecg_abnormal"]
    assert set(asked) == {task.question, *task.rewordings}
    assert asked.total() == 48


def test_another_seed_splits_anew(records: Path, root: Path, tmp_path: Path) -> None:
    run_import(request(records, tmp_path, rule={"seed": 1}))
    assert homes(tmp_path).keys() == homes(root).keys()
    assert homes(tmp_path) != homes(root)


def test_both_sides_may_be_any_filesystem(records: Path, root: Path) -> None:
    memory = MemoryFileSystem()
    for path in records.iterdir():
        memory.pipe_file(f"/source/{path.name}", path.read_bytes())
    try:
        run_import(request("memory://source", "memory://root"))
        assert homes("memory://root") == homes(root)
        assert check_root(Folder.at("memory://root")) == []
    finally:
        memory.rm("/source", recursive=True)
        memory.rm("/root", recursive=True)


def test_a_store_may_have_no_empty_folders(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDKIM_SCRATCH", str(tmp_path))
    monkeypatch.setattr(MemoryFileSystem, "makedirs", lambda self, path, exist_ok=False: None)
    try:
        run_import(request(records, "memory://store"))
        assert check_root(Folder.at("memory://store")) == []
        assert not list((tmp_path / "imports").iterdir())
    finally:
        MemoryFileSystem().rm("/store", recursive=True)


def test_dirichlet_gives_clients_different_labels(records: Path, tmp_path: Path) -> None:
    run_import(request(records, tmp_path, partition="dirichlet:0.1"))
    card = read_card(Folder.at(tmp_path))
    assert check_root(Folder.at(tmp_path)) == []
    sizes = [card.num_examples(f"clients/{client}/") for client in card.clients]
    assert len(sizes) < 3 or max(sizes) > 2 * min(sizes)


def test_rejections_are_recorded_without_values(records: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "root"
    shutil.copytree(records, source)
    (source / "310.dat").unlink()
    (source / "311.dat").write_bytes(b"half")
    (source / "313.hea").write_text("313 1 360 7200\n../secret.dat 16 200 16 0 MLII\n")
    with pytest.raises(DataError, match=r"3 of 87 examples cannot be used: "):
        run_import(request(source, target))
    assert not (target / CARD).exists()
    # 3.4 % of the examples; but nobody knows how many a record has that cannot be read.
    with pytest.raises(DataError, match="3 of 24 records cannot be read: "):
        run_import(request(source, target, max_rejected=0.1))
    result = run_import(request(source, target, max_rejected=0.2))
    assert sorted(result.record.rejected.items()) == [
        ("file_missing", 1),
        ("path_escapes", 1),
        ("signal_corrupt", 1),
    ]
    assert [p[0] for p in result.rejected_places] == ["310", "311", "313"]
    table = pq.read_table(target / "imports/mitbih/rejected.parquet")
    assert table.column_names == ["item", "row", "column", "reason"]
    assert not any(item[:2] == "31" for item in table["item"].to_pylist() if len(item) < 8)


def test_a_source_without_its_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be imported as mitbih: no file '\*\.hea'"):
        run_import(request(tmp_path, tmp_path / "root"))


def test_a_root_of_other_making_is_left_alone(records: Path, tiny_root: str) -> None:
    with pytest.raises(DataError, match="holds a data root that was not imported: 'tiny'"):
        run_import(request(records, tiny_root))


def test_an_unknown_option_is_named(records: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"options of mitbih cannot be used: windows.*window_s"):
        run_import(request(records, tmp_path, options={"windows": 3}))
    bad = replace(request(records, tmp_path), rule={"test_share": 0.6, "public_share": 0.4})
    with pytest.raises(DataError, match="leave nothing for the clients"):
        run_import(bad)
