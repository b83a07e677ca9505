"""The page and the terminal table hold what the report says, and nothing unescaped."""

import io
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from fedkim_ray.bundle.read import LoadedBundle
from fedkim_ray.config import EvaluationConfig
from fedkim_ray.drawing import svg
from fedkim_ray.evaluation import figures
from fedkim_ray.evaluation.compare import compare
from fedkim_ray.evaluation.evaluate import evaluate_bundle
from fedkim_ray.evaluation.report import examples_of, html_report, print_report
from fedkim_ray.evaluation.results import EvaluationReport, Subgroup
from fedkim_ray.storage import Folder

LOGS = [
    {"steps": [s, s + 1], "loss": [1.0, 0.5], "loss_by_task": {"covid19": [(s, 1.0), (s + 1, 0.5)]}}
    for s in (0, 2)
]
ROUNDS: list[dict[str, Any]] = [
    {
        "round_index": 0,
        "seconds": 1.5,
        "bytes_up": 2_000_000,
        "bytes_down": 3_000_000,
        "clients": [
            {"client_id": "north", "metrics": {"train/loss": 0.5, "seconds": 2}, "update_norm": 1}
        ],
        "failures": [{"client_id": "south", "cause": "timeout"}],
        "tasks": {"covid19": {"examples": 12.0, "auroc_before": 0.5, "auroc_after": 0.8}},
    },
    {"round_index": 1, "clients": []},  # a run without clients writes no more than this
]


@pytest.fixture(scope="module")
def report(bundle: LoadedBundle, tiny_root: str) -> EvaluationReport:
    config = EvaluationConfig(bootstrap_samples=20, max_new_tokens=2)
    tasks = ["covid19", "mortality", "sepsis", "med_vqa"]
    return evaluate_bundle(bundle, Folder.at(tiny_root), config, tasks)


@pytest.fixture(scope="module")
def with_groups(report: EvaluationReport) -> EvaluationReport:
    """The report, with groups of one task."""
    metrics = report.result("mortality").metrics
    scored = Subgroup(
        trait="age", level="40-64", num_questions=30, num_subjects=30, metrics=metrics
    )
    few = Subgroup(trait="site", level="<b>", num_questions=4, num_subjects=2, metrics={})
    tasks = [
        t.model_copy(update={"subgroups": (scored, few)} if t.task == "mortality" else {})
        for t in report.tasks
    ]
    return report.model_copy(update={"tasks": tuple(tasks)})


def test_groups_stand_on_the_page_and_in_the_terminal(
    report: EvaluationReport, with_groups: EvaluationReport
) -> None:
    assert "By sex, age and site" not in html_report(report)
    page = html_report(with_groups)
    assert "age 40-64" in page
    assert "site &lt;b&gt;" in page
    console = Console(file=io.StringIO(), width=200)
    print_report(with_groups, console)
    assert "age 40-64" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_task_shows_the_metrics_that_it_names(report: EvaluationReport) -> None:
    few = [
        t.model_copy(update={"chosen": ("recall", "mcc")} if t.task == "mortality" else {})
        for t in report.tasks
        if t.task in ("mortality", "sepsis")
    ]
    chosen = report.model_copy(update={"tasks": tuple(few), "answers": None})
    assert [t.headline for t in chosen.tasks] == ["recall", "auroc"]
    assert html_report(report).count('class="chosen"') == 0
    assert html_report(chosen).count('class="chosen"') == 2
    console = Console(file=io.StringIO(), width=200)
    print_report(chosen, console)
    trained, unseen = console.file.getvalue().split("Unseen tasks")  # type: ignore[attr-defined]
    assert "MCC" in trained
    assert "AUROC" not in trained
    assert "MCC" not in unseen


class Tags(HTMLParser):
    """Which tags are open, and which were ever seen."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open a tag."""
        self.seen.add(tag)
        if tag not in {"meta", "br", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the tag that was opened last."""
        assert self.open.pop() == tag


def test_page_is_whole_and_self_contained(report: EvaluationReport) -> None:
    assert report.answers is not None
    against = {"itself": compare(report.answers, report.answers, 10)}
    page = html_report(report, training_logs=LOGS, rounds=ROUNDS, differences=against)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not tags.seen & {"script", "img", "link", "iframe"}
    assert page.count("<svg") == 7
    for words in ("covid19", "sepsis", "med_vqa", "synthetic", "Not a medical device", "itself"):
        assert words in page
    assert "north" in page
    assert "south: timeout" in page


def test_page_without_extras_is_whole_too(report: EvaluationReport) -> None:
    page = html_report(report.model_copy(update={"answers": None}))
    assert page.count("<svg") == 2  # AUROC bars and routing
    assert "Federation" not in page


def test_model_words_cannot_become_markup(report: EvaluationReport) -> None:
    assert report.answers is not None
    place = report.answers.column_names.index("said")
    evil = pa.array(["<script>alert(1)</script>"] * report.answers.num_rows)
    answers = report.answers.set_column(place, "said", evil)
    page = html_report(report.model_copy(update={"answers": answers}))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_examples_show_both_labels_of_each_task(report: EvaluationReport) -> None:
    assert report.answers is not None
    examples = examples_of(report.answers, report)
    assert {e["task"] for e in examples} == {t.task for t in report.tasks}
    assert {e["label"] for e in examples if e["task"] == "covid19"} == {0, 1}


def test_terminal_table_has_every_task_and_the_data_kind(report: EvaluationReport) -> None:
    sink = io.StringIO()
    print_report(report, Console(file=sink, width=160))
    printed = sink.getvalue()
    for task in report.tasks:
        assert task.task in printed
    assert "synthetic" in printed
    assert "All 192 test questions" in printed
    (mortality,) = [line.split() for line in printed.splitlines() if "mortality" in line]
    assert mortality[5:8:2] == ["48", "48"]  # questions and subjects, between the table's bars


def test_figures_are_the_same_bytes_each_time(report: EvaluationReport) -> None:
    first, second = (figures.auroc_bars(report) for _ in range(2))
    assert first is not None
    assert second is not None
    assert svg(first) == svg(second)


def test_nothing_to_draw_draws_nothing() -> None:
    assert figures.loss_curves([]) is None
    assert figures.round_curves(ROUNDS[1:]) is None


def test_smoothed_loss_is_the_mean_of_the_last_steps() -> None:
    log = {"steps": [0], "loss": [0.0], "loss_by_task": {"a": [(s, float(s)) for s in range(12)]}}
    figure = figures.loss_curves([log])
    assert figure is not None
    line = figure.axes[0].lines[0]
    # Step 11 is the mean of 2 to 11; step 1 that of 0 and 1.
    assert (line.get_ydata()[11], line.get_ydata()[1]) == (6.5, 0.5)
