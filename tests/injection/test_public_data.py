"""Injection takes public rows by their folder, and holds each to it."""

from pathlib import Path

import pytest

from fedkim_ray.data.demo.tiny import SPEC
from fedkim_ray.data.schema import join_tables, sample_table, write_samples
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.errors import DataError
from fedkim_ray.injection.public_data import load_public
from fedkim_ray.storage import Folder

BY_ID = {task.id: task for task in TASKS}


def write_public(root: Folder, folder: str, *tasks: str) -> None:
    """Write one text row for each of ``tasks`` into a task's public folder."""
    rows = [
        {"sample_id": f"{n}", "subject_id": f"{n}", "task": t, "question": "?", "answer": "No"}
        for n, t in enumerate(tasks)
    ]
    table = join_tables([sample_table(rows, SPEC)], SPEC)
    write_samples(root, f"public/{folder}/train/part-0.parquet", table)


def test_rows_are_read_by_task_in_the_order_asked(tmp_path: Path) -> None:
    root = Folder.at(tmp_path)
    write_public(root, "covid19", "covid19")
    write_public(root, "mortality", "mortality", "mortality")
    samples = load_public(root, [BY_ID["mortality"], BY_ID["covid19"]], SPEC)
    assert {task: len(rows) for task, rows in samples.items()} == {"mortality": 2, "covid19": 1}


def test_a_row_of_another_task_is_refused(tmp_path: Path) -> None:
    root = Folder.at(tmp_path)
    write_public(root, "mortality", "mortality", "sepsis")
    message = r"Row 1 of '.*public/mortality/train', column 'task'.*belong to 'mortality'"
    with pytest.raises(DataError, match=message):
        load_public(root, [BY_ID["mortality"]], SPEC, modalities=())


def test_inputs_that_a_task_does_not_name_are_not_read(tiny_root: str) -> None:
    whole = BY_ID["mortality"]
    of_labs = whole.model_copy(update={"modalities": ("lab",)})
    samples = load_public(Folder.at(tiny_root), [of_labs], SPEC)["mortality"]
    assert whole.modalities != of_labs.modalities
    assert {m for i in range(len(samples)) for m in samples[i].arrays} == {"lab"}
