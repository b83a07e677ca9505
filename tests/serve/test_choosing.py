"""Which task answers a question."""

import pytest

from fedkim_ray.data.modalities import SERIES
from fedkim_ray.data.tasks import task_table
from serve.choosing import choose_task, described_task, infer_task, is_described
from serve.errors import UnknownNameError

TASKS = task_table()


@pytest.mark.parametrize("task", [t for t in TASKS.values() if t.kind == "yes_no"])
def test_a_tasks_own_question_leads_to_it(task: object) -> None:
    modalities = [m for m in task.modalities if m != "text"]  # type: ignore[attr-defined]
    assert infer_task(TASKS, modalities, task.question).id == task.id  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("modalities", "question", "task"),
    [
        (["image"], "", "lung_opacity"),
        (["image"], "Is there COVID-19 here?", "covid19"),
        (["image"], "How many?", "med_vqa"),
        (["image"], "Which organ is this?", "med_vqa"),
        (["signal"], "Are there ectopic beats?", "ectopic_beats"),
        (["lab", "vital"], "Will he die?", "mortality"),
        (SERIES, "Is this sepsis?", "sepsis"),
    ],
)
def test_modalities_come_first_then_the_questions_words(
    modalities: list[str], question: str, task: str
) -> None:
    choice = choose_task(TASKS, None, modalities, question)
    assert choice.task.id == task
    assert choice.inferred


def test_words_alone_are_a_general_question() -> None:
    task = infer_task(TASKS, [], "What is a P wave?")
    assert is_described(task)
    assert (task.kind, task.modalities) == ("generate", ("text",))


def test_a_named_task_is_taken_and_an_unknown_one_refused() -> None:
    choice = choose_task(TASKS, "sepsis", ["lab"], "")
    assert (choice.task.id, choice.inferred) == ("sepsis", False)
    with pytest.raises(UnknownNameError, match=r"'sepis'.*lung_opacity"):
        choose_task(TASKS, "sepis", ["lab"], "")


@pytest.mark.parametrize("blank", ["", " \n"])
def test_a_blank_name_is_no_name(blank: str) -> None:
    assert choose_task(TASKS, blank, ["lab"], "") == choose_task(TASKS, None, ["lab"], "")


def test_described_tasks_of_other_words_have_other_ids() -> None:
    one, other = described_task("A\nB", (), "C"), described_task("A", (), "B\nC")
    assert one.id != other.id


def test_a_described_task_of_other_modalities_has_another_id() -> None:
    seen, said = described_task("A", ("image",), "B"), described_task("A", (), "B")
    assert seen.id != said.id  # both may share a batch


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Is there a fracture?", "yes_no"),
        ("Can you see a fracture?", "yes_no"),
        ("Do you think it is broken?", "yes_no"),
        ("Could it be broken?", "yes_no"),
        ("Where is it?", "generate"),
        ("Can you explain what sepsis is?", "generate"),
        ("Could you please describe it?", "generate"),
        ("Do you know what causes it?", "generate"),
        ("", "generate"),
    ],
)
def test_a_described_task_answers_as_its_question_begins(question: str, kind: str) -> None:
    words = "Fracture detection: find out whether a rib is broken."
    choice = choose_task(TASKS, words, ["image"], question)
    assert (choice.task.kind, choice.task.description) == (kind, words)
    assert not choice.inferred
