"""A whole evaluation of a tiny bundle."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from fedkim_ray.bundle.read import LoadedBundle
from fedkim_ray.config import EvaluationConfig
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.errors import DataError, RecipeError, StorageError, TrainingDivergedError
from fedkim_ray.evaluation import scoring
from fedkim_ray.evaluation.answers import of_task
from fedkim_ray.evaluation.evaluate import evaluate_bundle
from fedkim_ray.evaluation.judge import metrics_of
from fedkim_ray.evaluation.metrics import GENERATION, YES_NO
from fedkim_ray.evaluation.report import html_report
from fedkim_ray.evaluation.results import (
    EvaluationReport,
    TaskResult,
    read_report,
    write_report,
)
from fedkim_ray.storage import Folder

CONFIG = EvaluationConfig(bootstrap_samples=50, max_new_tokens=2)


@pytest.fixture(scope="module")
def report(bundle: LoadedBundle, tiny_root: str) -> EvaluationReport:
    """All twelve tasks, twelve questions each."""
    config = CONFIG.model_copy(update={"max_questions": 12 * 12})
    return evaluate_bundle(bundle, Folder.at(tiny_root), config)


def test_every_task_is_reported_trained_first(report: EvaluationReport) -> None:
    assert [t.task for t in report.tasks] == [task.id for task in TASKS]
    assert (len(report.of("train")), len(report.of("unseen"))) == (4, 8)
    for task in report.tasks:
        assert tuple(task.metrics) == (YES_NO if task.kind == "yes_no" else GENERATION)
        assert task.data_kind == "synthetic"
        assert (task.num_questions, task.num_available, task.num_subjects) == (12, 48, 12)


def test_the_subset_is_said_and_balanced(report: EvaluationReport) -> None:
    assert "subset of 144 of the 576" in report.subset_note
    assert report.result("mortality").num_yes == 6


def test_metrics_are_those_of_the_answers(report: EvaluationReport) -> None:
    assert report.answers is not None
    rows = of_task(report.answers, "covid19")
    task = next(t for t in TASKS if t.id == "covid19")
    assert report.result("covid19").metrics == metrics_of(rows, task, 50)
    said, answer = rows["said"].to_pylist(), rows["answer"].to_pylist()
    hits = sum(s == a for s, a in zip(said, answer, strict=True)) / 12
    assert report.result("covid19").metrics["accuracy"].value == pytest.approx(hits)


def test_routing_is_the_models(report: EvaluationReport, bundle: LoadedBundle) -> None:
    routing = report.result("sepsis").routing
    assert routing is not None
    alpha = bundle.model.route([("sepsis", routing.modalities)])[0]
    assert routing.expert_weights == pytest.approx(alpha.tolist())
    assert sum(routing.expert_weights) == pytest.approx(1.0)
    assert routing.entropy_nats == pytest.approx(-float((alpha * alpha.log()).sum()))
    assert routing.nearest_trained in {t.task for t in report.of("train")}
    assert report.result("mortality").routing.nearest_trained is None  # type: ignore[union-attr]


def test_a_task_that_the_run_left_out_is_shown_and_routed_as_untrained(
    bundle: LoadedBundle, tiny_root: str
) -> None:
    facts = bundle.facts.model_copy(update={"training": {"mortality": 0.5}})
    one = replace(bundle, facts=facts)
    report = evaluate_bundle(one, Folder.at(tiny_root), CONFIG, ["mortality", "covid19", "sepsis"])
    assert [t.task for t in report.of("train")] == ["mortality"]
    assert [t.task for t in report.of("left_out")] == ["covid19"]
    nearest = {t.task: t.routing and t.routing.nearest_trained for t in report.tasks}
    assert nearest == {"mortality": None, "covid19": "mortality", "sepsis": "mortality"}
    page = html_report(report)
    assert "Tasks left out of training, yes/no" in page
    assert "covid19 (left out)" in page


def test_of_an_older_report_it_is_unknown_what_was_trained(report: EvaluationReport) -> None:
    values = report.result("covid19").model_dump(mode="json", exclude={"trained"})
    assert TaskResult.model_validate(values).standing == "train"


def test_a_written_report_reads_back_equal(report: EvaluationReport, tmp_path: Path) -> None:
    write_report(report, Folder.at(tmp_path))
    assert read_report(Folder.at(tmp_path)) == report
    assert json.loads((tmp_path / "report.json").read_text())["tasks"][0]["task"] == "lung_opacity"


def test_a_kill_between_answers_and_report_leaves_no_report_of_other_answers(
    report: EvaluationReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder.at(tmp_path)
    write_report(report, folder)

    def killed(folder: Folder, name: str, value: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            write_report(report.model_copy(update={"answers": None}), folder)
    assert not folder.exists("report.json")
    write_report(report, folder)
    assert read_report(folder) == report


def test_altered_answers_are_refused(report: EvaluationReport, tmp_path: Path) -> None:
    write_report(report, Folder.at(tmp_path))
    table = tmp_path / "answers.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    with pytest.raises(StorageError, match=r"answers\.parquet' is not the table that report\.json"):
        read_report(Folder.at(tmp_path))


def test_another_format_version_is_refused(report: EvaluationReport, tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    write_report(report, folder)
    folder.write_json("report.json", {**folder.read_json("report.json"), "format_version": 9})
    with pytest.raises(StorageError, match=r"format version 9.*reads version 1"):
        read_report(folder)


def test_one_task_read_by_its_words(bundle: LoadedBundle, tiny_root: str) -> None:
    report = evaluate_bundle(bundle, Folder.at(tiny_root), CONFIG, ["mortality"], read="generate")
    (result,) = report.tasks
    assert result.reading == "generate"
    assert result.metrics["auroc"].value is None
    assert "All 48 test questions" in report.subset_note


def test_an_unknown_task_is_refused(bundle: LoadedBundle, tiny_root: str) -> None:
    with pytest.raises(RecipeError, match=r"\['gout'\] are not known.*lung_opacity"):
        evaluate_bundle(bundle, Folder.at(tiny_root), CONFIG, ["gout"])


def test_every_task_is_asked_something(bundle: LoadedBundle, tiny_root: str) -> None:
    config = CONFIG.model_copy(update={"max_questions": 1})
    with pytest.raises(RecipeError, match=r"max_questions is 1 for 2 tasks \(covid19, sepsis\)"):
        evaluate_bundle(bundle, Folder.at(tiny_root), config, ["covid19", "sepsis"])


def test_a_question_of_another_task_is_refused(
    bundle: LoadedBundle, tiny_root: str, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_root, root)
    shutil.copy(root / "test/sepsis/part-0.parquet", root / "test/mortality/part-0.parquet")
    message = r"Row 0 of '.*test/mortality', column 'task'.*belong to 'mortality'"
    with pytest.raises(DataError, match=message):
        evaluate_bundle(bundle, Folder.at(root), CONFIG, ["mortality"])


def test_a_missing_data_root_is_refused(bundle: LoadedBundle, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no data root"):
        evaluate_bundle(bundle, Folder.at(tmp_path), CONFIG)


def test_a_question_without_label_is_refused(report: EvaluationReport) -> None:
    assert report.answers is not None
    rows = of_task(report.answers, "covid19")
    place = rows.column_names.index("label")
    rows = rows.set_column(place, "label", pa.nulls(rows.num_rows, pa.int8()))
    with pytest.raises(DataError, match=r"12 test questions of 'covid19' have no label"):
        metrics_of(rows, next(t for t in TASKS if t.id == "covid19"), 10)


def test_a_diverged_model_is_refused(
    bundle: LoadedBundle, tiny_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        scoring.inference, "score", lambda model, batch: torch.full((batch.size, 2), torch.nan)
    )
    with pytest.raises(TrainingDivergedError, match=r"probability that is NaN"):
        evaluate_bundle(bundle, Folder.at(tiny_root), CONFIG, ["covid19"])


def test_right_and_wrong_are_counted(report: EvaluationReport) -> None:
    task = report.result("covid19")
    assert task.confusion is not None
    tp, fp, fn, tn = task.confusion.model_dump().values()
    assert (tp + fn, tp + fp + fn + tn) == (task.num_yes, 12)
    assert task.metrics["accuracy"].value == (tp + tn) / 12
    assert report.result("med_vqa").confusion is None
