"""Unseen tasks are only ever asked: no training code reads a sample of theirs.

The proof is by poison. Every place where training could look has data of an unseen task, whole
when the card is written; then each of those files is overwritten with bytes that no reader takes.
A run that reads one fails; a run that finishes has read none.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedkim_ray.data.demo.tiny import write_tiny_root
from fedkim_ray.data.loading import load_samples
from fedkim_ray.data.root import CARD, FileFacts, read_card, write_card
from fedkim_ray.data.schema import join_tables, write_samples
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.errors import DataError, RecipeError
from fedkim_ray.pipeline import plan_run
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.storage import Folder

UNSEEN = [task.id for task in TASKS if task.role == "unseen"]
PLACES = ("clients/north/{}/train", "clients/north/{}/valid", "public/{}/train", "test/{}")
FEDKIM = Path(sys.executable).parent / "fedkim"


@pytest.fixture(scope="module")
def poisoned_root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A root whose card promises unseen tasks to clients and injection; their files are poison."""
    url = str(tmp_path_factory.mktemp("poisoned") / "root")
    card, root = write_tiny_root(url, num_private=16), Folder.at(url)
    for task in UNSEEN:
        table = load_samples(root / f"test/{task}", card.spec).table
        for number, place in enumerate(PLACES):
            part = table.slice(4 * number, 4)  # no subject in two places
            name = f"{place.format(task)}/part-0.parquet"
            write_samples(root, name, join_tables([part], card.spec))
    card = write_card(root, card)
    poisoned = [n for n in card.files if {*UNSEEN} & {*n.split("/")}]
    for name in poisoned:
        root.write_bytes(name, b"poison")
    # The card has the poison's hash, so that a check of the files' bytes passes.
    facts = {n: FileFacts(sha256=root.sha256(n), size_bytes=6, num_examples=4) for n in poisoned}
    whole = card.model_copy(update={"files": {**card.files, **facts}})
    root.write_bytes(CARD, whole.model_dump_json().encode())
    return url


def test_the_poison_is_where_training_could_look_and_it_bites(poisoned_root: str) -> None:
    root = Folder.at(poisoned_root)
    card = read_card(root)
    assert "sepsis" in card.tasks_of("north")
    for place in PLACES:
        assert card.num_examples(place.format("sepsis")) == 4
        with pytest.raises(DataError):
            load_samples(root / place.format("sepsis"), card.spec)


def test_no_plan_trains_an_unseen_task_even_where_there_are_data(poisoned_root: str) -> None:
    plan = plan_run(load_recipe("tiny", [f"data.root={poisoned_root}"]))
    trained = [*plan.trained, *(t for tasks in plan.tasks_by_client.values() for t in tasks)]
    assert {task.role for task in trained} == {"train"}


def test_an_unseen_task_cannot_be_named_for_training(poisoned_root: str) -> None:
    sets = [f"data.root={poisoned_root}", "data.tasks=[covid19, sepsis]"]
    with pytest.raises(RecipeError, match=r"data.tasks names \['sepsis'\]"):
        plan_run(load_recipe("tiny", sets))


def test_an_unseen_tasks_row_among_a_trained_tasks_is_refused_before_any_work(
    tmp_path: Path,
) -> None:
    root = Folder.at(tmp_path / "mixed")
    card = write_tiny_root(root.url, num_private=16)
    stray = load_samples(root / "test/sepsis", card.spec).table.slice(0, 1)
    root.fs.rm(root.full("test/sepsis"), recursive=True)  # no subject in two places
    write_samples(root, "public/mortality/train/part-1.parquet", stray)
    write_card(root, card.model_copy(update={"files": {}}))
    with pytest.raises(DataError, match=r"Row 8 of '.*public/mortality/train', column 'task'"):
        plan_run(load_recipe("tiny", [f"data.root={root.url}"]))


@pytest.mark.parametrize("place", ["public/mortality/train", "test/sepsis"])
def test_a_file_that_the_card_does_not_name_is_refused_before_any_work(
    tmp_path: Path, place: str
) -> None:
    write_tiny_root(str(tmp_path), num_private=16)
    shutil.copy(tmp_path / place / "part-0.parquet", tmp_path / place / "stray.parquet")
    with pytest.raises(DataError, match=rf"{place}/stray\.parquet' is not on the card"):
        plan_run(load_recipe("tiny", [f"data.root={tmp_path}"]))


@pytest.mark.ray
def test_a_whole_run_reads_no_sample_of_an_unseen_task(poisoned_root: str, tmp_path: Path) -> None:
    sets = [
        f"data.root={poisoned_root}",
        "federation.rounds=1",
        "federation.execution=local",
        "injection.steps_per_round=4",
    ]
    command = [str(FEDKIM), "run", "tiny", "--out", str(tmp_path / "run"), "--no-evaluate"]
    for value in sets:
        command += ["--set", value]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/bundle/manifest.json").exists()
