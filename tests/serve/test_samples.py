"""Samples: test rows in the form that requests take."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedkim_ray.data.loading import load_samples
from fedkim_ray.data.schema import write_samples
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder
from serve.errors import UnknownNameError
from serve.gateway import raw_input
from serve.inputs import to_example
from serve.limits import Limits
from serve.samples import PER_TASK, Samples
from serve.schemas import PatientInput
from serve.transformers_engine import TransformersEngine


@pytest.fixture(scope="module")
def samples(tiny_root: str, engine: TransformersEngine) -> Samples:
    """A few test rows of every task."""
    tasks = {task.id: task for task in engine.facts.tasks}
    return Samples.from_root(tiny_root, tasks, engine.facts.spec)


def test_every_task_has_a_few_of_both_answers(samples: Samples) -> None:
    listed = samples.list().data
    assert len(listed) == 12 * PER_TASK
    answers = {s.recorded_answer for s in listed if s.task == "covid19"}
    assert answers == {"Yes", "No"}
    assert {s.data_kind for s in listed} == {"synthetic"}


def test_a_sample_sent_back_is_the_row_that_it_came_from(
    samples: Samples, tiny_root: str, engine: TransformersEngine
) -> None:
    # The first sample of a yes/no task is its first row with label 1, which is row 1.
    for task in engine.facts.tasks:
        if task.kind != "yes_no":
            continue
        row = load_samples(Folder.at(tiny_root) / "test" / task.id, engine.facts.spec)[1]
        sent = PatientInput.model_validate(samples.get(f"{task.id}-0").input)
        came = to_example(raw_input(sent, "input"), task, engine.facts.spec, Limits())
        assert came.arrays.keys() == row.arrays.keys()
        for modality, array in row.arrays.items():
            seen = row.observed.get(modality, np.ones_like(array, bool))
            np.testing.assert_allclose(came.arrays[modality][seen], array[seen], atol=1e-4)
            if modality in row.observed:
                np.testing.assert_array_equal(came.observed[modality], seen)


def test_row_groups_without_a_sample_are_not_read(
    tiny_root: str, engine: TransformersEngine, tmp_path: Path
) -> None:
    # A row group has 1024 rows. The one broken row lies in the second, which nobody needs.
    shutil.copytree(tiny_root, tmp_path / "root")
    test = Folder.at(tmp_path / "root/test/covid19")
    (name,) = test.glob("*.parquet")
    good = pq.read_table(test.full(name))
    place, label = good.column_names.index("label"), pa.array([7], pa.int8())
    broken = good.slice(0, 1).set_column(place, good.schema.field("label"), label)
    repeated = [good] * (1024 // len(good))
    first = pa.concat_tables([*repeated, good.slice(0, 1024 % len(good))])
    write_samples(test, name, pa.concat_tables([first, broken]))
    with pytest.raises(DataError, match="'label' is neither 0 nor 1"):
        load_samples(test, engine.facts.spec)
    task = next(task for task in engine.facts.tasks if task.id == "covid19")
    found = Samples.from_root(str(tmp_path / "root"), {task.id: task}, engine.facts.spec)
    assert len(found.list().data) == PER_TASK


def test_an_unknown_sample_is_refused(samples: Samples) -> None:
    with pytest.raises(UnknownNameError, match=r"'nobody-0'.*48 samples"):
        samples.get("nobody-0")
