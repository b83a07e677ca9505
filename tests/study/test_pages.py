"""A study as tables and pages, from results written by hand."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from fedkim_ray.evaluation.arms import ArmResult
from fedkim_ray.evaluation.bootstrap import Estimate
from fedkim_ray.storage import Folder
from fedkim_ray.study.page import write_pages
from fedkim_ray.study.results import RunFacts, StudyReport
from fedkim_ray.study.tables import markdown_tables, print_study

LOW, HIGH = 0.1, 0.3


def result(arm: str, task: str, value: float, difference: Estimate | None = None) -> ArmResult:
    return ArmResult(
        arm=arm,
        task=task,
        role="train" if task == "mortality" else "unseen",
        metric="auroc",
        num_questions=40,
        num_subjects=30,
        num_seeds=2,
        value=Estimate(value=value, low=value - 0.1, high=value + 0.1),
        difference=difference,
    )


@pytest.fixture
def report() -> StudyReport:
    decided = Estimate(value=0.2, low=LOW, high=HIGH)
    open_still = Estimate(value=0.01, low=-0.1, high=0.1)
    run = RunFacts(
        variant="fedkim",
        seed=0,
        version="abc",
        steps=60,
        training_s=100.0,
        evaluation_s=50.0,
        shared_first_round=True,
    )
    return StudyReport(
        name="study",
        base="tiny-random",
        data_name="demo",
        data_root="runs/demo/data",
        overrides=(),
        seeds=(0, 1),
        variants=("fedkim", "public_only"),
        references=("heads",),
        bootstrap_samples=100,
        subset_note="All 80 test questions were asked.",
        data_kinds={"mortality": "real", "sepsis": "synthetic"},
        results=(
            result("fedkim", "mortality", 0.7),
            result("public_only", "mortality", 0.5, decided),
            result("heads", "mortality", 0.69, open_still),
            result("fedkim", "sepsis", 0.6),
            result("public_only", "sepsis", 0.59, open_still),
        ),
        runs=(run,),
    )


def test_markdown_marks_only_what_an_interval_decides(report: StudyReport) -> None:
    text = markdown_tables(report)
    assert "**+0.200 [+0.100, +0.300]**" in text
    assert "| +0.010 [-0.100, +0.100] |" in text
    assert "2 training seeds (Student's t) and the test subjects (100 bootstrap draws)" in text
    assert "| mortality | real | 40 | 30 | auroc | 0.700 [0.600, 0.800] |" in text
    titles = [line for line in text.splitlines() if line.startswith("### ")]
    assert titles == ["### Trained tasks", "### Zero-shot", "### Ablations", "### Runs"]


def test_a_task_that_training_left_out_is_shown_as_such(
    report: StudyReport, tmp_path: Path
) -> None:
    told = [r.model_copy(update={"trained": False}) for r in report.results]
    left_out = report.model_copy(update={"results": tuple(told), "references": ()})
    text = markdown_tables(left_out)
    assert "### Tasks left out of training\n" in text
    assert "### Trained tasks" not in text
    assert "### Zero-shot" in text
    sink = io.StringIO()
    print_study(left_out, Console(file=sink, width=120))
    assert "mortality (left out)" in sink.getvalue()
    write_pages(left_out, Folder.at(tmp_path))
    assert "<h2>Tasks left out of training</h2>" in (tmp_path / "comparison.html").read_text()


def test_few_subjects_are_said_to_decide_nothing(report: StudyReport, tmp_path: Path) -> None:
    few = [r.model_copy(update={"num_subjects": 5}) for r in report.results]
    small = report.model_copy(update={"results": tuple(few)})
    note = "Fewer than 10 subjects decide nothing: mortality (5), sepsis (5)."
    assert note in markdown_tables(small)
    assert "**" not in markdown_tables(small)
    assert "decide nothing" not in markdown_tables(report)
    sink = io.StringIO()
    print_study(small, Console(file=sink, width=120))
    assert note in sink.getvalue()
    write_pages(small, Folder.at(tmp_path))
    assert note in (tmp_path / "comparison.html").read_text()


def test_one_seed_says_what_its_intervals_leave_out(report: StudyReport) -> None:
    assert (
        "nothing of another training run" in report.model_copy(update={"seeds": (0,)}).interval_note
    )


def test_the_terminal_says_who_is_ahead_and_what_is_synthetic(report: StudyReport) -> None:
    sink = io.StringIO()
    print_study(report, Console(file=sink, width=120))
    lines = [line.split() for line in sink.getvalue().splitlines()]
    (mortality,) = [line for line in lines if line[:1] == ["mortality"] and "0.500" in line]
    assert (mortality[1:4], mortality[-1]) == (["real", "40", "30"], "fedkim")
    (sepsis,) = [line for line in lines if line[:1] == ["sepsis"]]
    assert (sepsis[1:3], sepsis[-1]) == (["(unseen)", "synthetic"], "undecided")


def test_page_and_figure_are_written(report: StudyReport, tmp_path: Path) -> None:
    write_pages(report, Folder.at(tmp_path))
    page = (tmp_path / "comparison.html").read_text()
    assert "fedkim ahead" in page
    assert "Unseen tasks (zero-shot)" in page
    assert page.count("<svg") == 1
    assert (tmp_path / "comparison.svg").read_text().startswith("<svg")
    assert (tmp_path / "comparison.png").read_bytes()[:4] == b"\x89PNG"
