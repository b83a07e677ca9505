"""The task table: the paper's twelve, and a user's own."""

import pytest

from fedkim_ray.data.modalities import MODALITIES
from fedkim_ray.data.tasks import TASKS, task_table
from fedkim_ray.errors import RecipeError
from fedkim_ray.types import Task

OWN = Task(
    id="gait",
    role="train",
    modalities=("signal",),
    description="Gait analysis.",
    question="Is the gait normal?",
)


def test_twelve_tasks_four_trained() -> None:
    assert len(TASKS) == len(task_table()) == 12
    trained = [task.id for task in TASKS if task.role == "train"]
    assert trained == ["lung_opacity", "covid19", "ecg_abnormal", "mortality"]
    assert [t.id for t in TASKS if t.kind == "generate"] == ["signal_noise", "med_vqa", "slake_vqa"]


def test_all_seven_modalities_are_used() -> None:
    assert {m for task in TASKS for m in task.modalities} == set(MODALITIES)
    assert len(MODALITIES) == 7


def test_descriptions_differ() -> None:
    # Routing reads the descriptions alone: two equal ones would be one task to the router.
    assert len({task.description for task in TASKS}) == 12


def test_a_question_has_wordings_that_differ() -> None:
    for task in TASKS:
        wordings = {task.question, *task.rewordings}
        assert len(wordings) == 1 + len(task.rewordings)
        assert task.rewordings or task.kind == "generate"


def test_a_task_of_ones_own_joins_the_table() -> None:
    assert task_table([OWN])["gait"] is OWN


def test_a_taken_id_is_refused() -> None:
    with pytest.raises(RecipeError, match="adds a task 'covid19', an id that is taken"):
        task_table([OWN.model_copy(update={"id": "covid19"})])


def test_an_unknown_modality_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"'gait' names the modalities \['smell'\]"):
        task_table([OWN.model_copy(update={"modalities": ("signal", "smell")})])


def test_a_metric_of_another_kind_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"'gait' names the metrics \['bleu_1'\]"):
        task_table([OWN.model_copy(update={"metrics": ("recall", "bleu_1")})])
