"""References: a specialist for tables, and the language model without encoders."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedkim_ray.bundle.read import read_facts
from fedkim_ray.config import BaseModelConfig, EvaluationConfig
from fedkim_ray.data.loading import SampleSet
from fedkim_ray.data.root import read_card
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.errors import BaseModelError, DataError
from fedkim_ray.evaluation.answers import ANSWERS, of_task
from fedkim_ray.evaluation.baselines import (
    _folds,
    blind_note,
    evaluate_base,
    logistic_answers,
    pooled_training_sets,
)
from fedkim_ray.evaluation.compare import compare
from fedkim_ray.evaluation.evaluate import load_questions
from fedkim_ray.evaluation.results import EvaluationReport
from fedkim_ray.evaluation.text_only import ask_in_text
from fedkim_ray.injection.base_model import find_base, load_base
from fedkim_ray.injection.prompt import series_as_text
from fedkim_ray.storage import Folder
from fedkim_ray.types import Task

BY_ID: Mapping[str, Task] = {task.id: task for task in TASKS}
BASE = BaseModelConfig(name="tiny-random", dtype="float32")


def questions(root_url: str, *tasks: str) -> Mapping[str, SampleSet]:
    root = Folder.at(root_url)
    return load_questions(root, read_card(root).spec, BY_ID, tasks).samples


@pytest.fixture(scope="module")
def base_report(tiny_root: str, bundle_url: str) -> EvaluationReport:
    config = EvaluationConfig(bootstrap_samples=20, max_new_tokens=2)
    wanted = ["covid19", "mortality", "med_vqa"]
    return evaluate_base(read_facts(Folder.at(bundle_url)), Folder.at(tiny_root), config, wanted)


def test_another_base_model_than_the_bundles_is_refused(tiny_root: str, bundle_url: str) -> None:
    facts = read_facts(Folder.at(bundle_url)).model_copy(update={"base_fingerprint": "f00d"})
    with pytest.raises(BaseModelError, match="The bundle was trained on f00d"):
        evaluate_base(facts, Folder.at(tiny_root), EvaluationConfig(), ["covid19"])


def test_training_rows_of_all_hospitals_come_into_one_place(tiny_root: str) -> None:
    root = Folder.at(tiny_root)
    sets = pooled_training_sets(root, read_card(root), BY_ID["ecg_abnormal"], ["north", "south"])
    assert [len(s) for s in sets] == [48, 48, 24]  # north, south, public


def test_a_hospital_that_takes_no_part_is_left_out(tiny_root: str) -> None:
    root = Folder.at(tiny_root)
    sets = pooled_training_sets(root, read_card(root), BY_ID["ecg_abnormal"], ["south"])
    assert [len(s) for s in sets] == [48, 24]  # south, public


def test_a_modality_that_one_row_carries_is_a_feature_like_others(tiny_root: str) -> None:
    root = Folder.at(tiny_root)
    card = read_card(root)
    train = pooled_training_sets(root, card, BY_ID["mortality"], card.clients)
    samples = questions(tiny_root, "mortality")["mortality"]
    whole = logistic_answers(BY_ID["mortality"], train, samples)
    one = SampleSet(samples.table.slice(5, 1), samples.spec)
    alone = logistic_answers(BY_ID["mortality"], train, one)
    assert alone["probability_yes"][0].as_py() == pytest.approx(whole["probability_yes"][5].as_py())


def test_logistic_regression_learns_the_tables(tiny_root: str) -> None:
    root = Folder.at(tiny_root)
    card = read_card(root)
    train = pooled_training_sets(root, card, BY_ID["mortality"], card.clients)
    samples = questions(tiny_root, "mortality")["mortality"]
    answers = logistic_answers(BY_ID["mortality"], train, samples)
    assert answers.schema == ANSWERS
    right = zip(answers["said"].to_pylist(), answers["answer"].to_pylist(), strict=True)
    assert sum(said == answer for said, answer in right) > 0.9 * len(samples)


def test_logistic_regression_refuses_a_task_without_tables(tiny_root: str) -> None:
    samples = questions(tiny_root, "covid19")["covid19"]
    with pytest.raises(DataError, match=r"'covid19' has the modalities image.*reads tables"):
        logistic_answers(BY_ID["covid19"], [samples], samples)


def test_logistic_regression_refuses_one_class(tiny_root: str) -> None:
    samples = questions(tiny_root, "mortality")["mortality"]
    positives = SampleSet(
        samples.table.filter(pa.compute.equal(samples.table["label"], 1)), samples.spec
    )
    with pytest.raises(DataError, match=r"have the labels \['1'\]"):
        logistic_answers(BY_ID["mortality"], [positives], samples)


def test_base_is_constant_where_it_sees_nothing(base_report: EvaluationReport) -> None:
    covid = base_report.result("covid19")
    auroc = covid.metrics["auroc"]
    assert (auroc.value, auroc.low, auroc.high) == (0.5, 0.5, 0.5)
    assert "0.5 by construction" in covid.note
    assert "blind" in base_report.result("med_vqa").note


def test_base_reads_tables_as_text(base_report: EvaluationReport) -> None:
    assert base_report.answers is not None
    rows = of_task(base_report.answers, "mortality")
    assert len(set(rows["probability_yes"].to_pylist())) > 40
    assert base_report.result("mortality").note == ""
    assert base_report.variant == "base"


def test_base_is_the_stock_model_asked_in_text(
    base_report: EvaluationReport, tiny_root: str
) -> None:
    folder = find_base("tiny-random")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    samples = questions(tiny_root, "mortality")["mortality"]
    example, task = samples[0], BY_ID["mortality"]
    words = f"{series_as_text(example, samples.spec)}\n{example.question}"
    chat = f"<|im_start|>user\n{words}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(chat, add_special_tokens=False, return_tensors="pt").input_ids
    no, yes = (tokenizer(w, add_special_tokens=False).input_ids[0] for w in task.answer_words)
    with torch.inference_mode():
        expected = stock(ids).logits[0, -1, [no, yes]].softmax(-1)[1]
    assert base_report.answers is not None
    came = of_task(base_report.answers, "mortality")["probability_yes"][0].as_py()
    assert came == pytest.approx(float(expected), abs=1e-5)


def test_base_compares_with_itself_at_zero(base_report: EvaluationReport) -> None:
    assert base_report.answers is not None
    for d in compare(base_report.answers, base_report.answers, 10):
        assert (d.difference.value, d.verdict) == (0.0, "undecided")


def test_equal_prompts_are_asked_once(tiny_root: str) -> None:
    told: list[tuple[int, int]] = []
    ask_in_text(
        load_base("tiny-random", "float32"),
        questions(tiny_root, "covid19", "lung_opacity"),
        BY_ID,
        batch_size=8,
        max_new_tokens=1,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(2, 2)]  # one prompt a task for 96 images


@pytest.mark.parametrize(
    ("task", "probabilities", "note"),
    [
        ("sepsis", [0.3, 0.3], ""),  # of tables alone, which the prompt has
        ("ectopic_beats", [0.3, 0.3], "lacks the signal: a constant answer, AUROC is 0.5"),
        ("ectopic_beats", [0.3, 0.4], "lacks the signal"),  # two wordings of the question
        ("ectopic_beats", [None, None], "lacks the signal"),  # words, which have no AUROC
    ],
)
def test_note_names_what_the_prompt_lacks(
    task: str, probabilities: list[float | None], note: str
) -> None:
    said = blind_note(BY_ID[task], pa.table({"probability_yes": probabilities}))
    assert note in said
    assert bool(said) == bool(note)
    assert said.endswith(note) or "0.5" in note


def test_a_fold_without_one_of_the_classes_is_not_asked_for_a_penalty() -> None:
    # Two subjects are positive, one of them in most rows: some folds of five have one class alone.
    y = np.array([1] * 40 + [1] + [0] * 40)
    subjects = np.array(["a"] * 40 + ["b"] + [f"s{i // 10}" for i in range(40)])
    folds = _folds(y, subjects)
    assert folds
    for rows in (rows for fold in folds for rows in fold):
        assert set(y[rows]) == {0, 1}
    with pytest.raises(DataError, match=r"too few subjects .* 1\."):
        _folds(np.array([1, 0, 0]), np.array(["a", "b", "c"]))
