"""The evaluation as a page and as a table in the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from fedkim_ray.evaluation import answer_figures, figures
from fedkim_ray.evaluation.answers import of_task
from fedkim_ray.evaluation.bootstrap import ONE_SUBJECT, Estimate
from fedkim_ray.evaluation.client_figures import client_curves
from fedkim_ray.evaluation.compare import TaskDifference
from fedkim_ray.evaluation.metrics import NAMES_BY_KIND
from fedkim_ray.evaluation.page import inline, render
from fedkim_ray.evaluation.results import (
    STANDINGS,
    EvaluationReport,
    ExpertRemoval,
    TaskResult,
)
from fedkim_ray.storage import Folder

PAGE = "report.html"
NAMES: Mapping[str, str] = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "mcc": "MCC",
    "auroc": "AUROC",
    "ece": "ECE",
    "exact_match": "exact match",
    "token_f1": "token F1",
    "bleu_1": "BLEU-1",
    "rouge_1": "ROUGE-1",
    "rouge_l": "ROUGE-L",
}
"""Metrics as readers know them."""
EXAMPLES_PER_TASK = 3


def print_report(report: EvaluationReport, console: Console) -> None:
    """Print a table of the trained tasks, one of the unseen, and one of generated answers.

    Trained tasks that this run left out have a table of their own.
    """
    console.print(
        f"[bold]{report.name}[/bold] ({report.variant}, version {report.version}) on "
        f"{report.data_name}. {report.subset_note} 95 % bootstrap intervals by subject."
    )
    for title, _, tasks in _sections(report):
        table = Table(title=title)
        shown = list(dict.fromkeys(m for task in tasks for m in task.shown))
        for column in ("task", "data", "n", "subjects", *(NAMES[m] for m in shown)):
            words = column in ("task", "data")
            table.add_column(column, justify="left" if words else "right", no_wrap=words)
        for task in tasks:
            values = [_short(task.metrics[m]) for m in shown]
            numbers = (str(task.num_questions), str(task.num_subjects))
            table.add_row(task.task, task.data_kind, *numbers, *values)
        console.print(table)
    if any(task.subgroups for task in report.tasks):
        console.print(_subgroup_table(report))
    if report.removals:
        console.print(_removal_table(report))
    for task in report.tasks:
        for line in _remarks(task):
            console.print(f"{task.task}: {line}", style="dim", highlight=False)
    console.print(f"Scored in {report.scoring_seconds:.1f} s, {report.seconds:.1f} s in all.")


def html_report(
    report: EvaluationReport,
    *,
    training_logs: Sequence[Mapping[str, Any]] = (),
    rounds: Sequence[Mapping[str, Any]] = (),
    differences: Mapping[str, Sequence[TaskDifference]] | None = None,
) -> str:
    """Return one self-contained page: tables, figures and example answers.

    Args:
        report: With its answers.
        training_logs: ``log.json`` of each round's injection, in order.
        rounds: Round reports of the federation, in order.
        differences: Comparisons of this model with references, by the reference's name.
    """
    answers = report.answers
    drawn = {
        "auroc": figures.auroc_bars(report),
        "roc": answer_figures.roc_curves(answers, report) if answers is not None else None,
        "calibration": answer_figures.calibration_curves(answers, report)
        if answers is not None
        else None,
        "routing": figures.routing_map(report),
        "removal": figures.removal_map(report),
        "loss": figures.loss_curves(training_logs),
        "rounds": figures.round_curves(rounds),
        "clients": client_curves(rounds),
    }
    return render(
        Path(__file__).with_name(PAGE),
        report=report,
        sections=[
            {
                "title": title,
                "standing": tasks[0].standing,
                "metrics": NAMES_BY_KIND[kind],
                "tasks": tasks,
            }
            for title, kind, tasks in _sections(report)
        ],
        names=NAMES,
        remarks=[(task.task, line) for task in report.tasks for line in _remarks(task)],
        figures={name: inline(figure) for name, figure in drawn.items()},
        examples=examples_of(answers, report) if answers is not None else [],
        rounds=rounds,
        differences=differences or {},
    )


def write_html(folder: Folder, page: str) -> None:
    """Write the page beside the report."""
    folder.write_bytes(PAGE, page.encode())


def examples_of(answers: pa.Table, report: EvaluationReport) -> list[dict[str, Any]]:
    """Return a few answers of each task: the first rows of each label, right or wrong alike.

    Rows are taken by their place and never by the model's success.
    """
    examples = []
    for task in report.tasks:
        rows = of_task(answers, task.task).to_pylist()
        by_label: dict[Any, list[dict[str, Any]]] = {}
        for row in rows:
            by_label.setdefault(row["label"], []).append(row)
        turns = zip(*(mine[:EXAMPLES_PER_TASK] for mine in by_label.values()), strict=False)
        examples += [row for turn in turns for row in turn][:EXAMPLES_PER_TASK]
    return examples


def _sections(report: EvaluationReport) -> list[tuple[str, str, list[TaskResult]]]:
    """Return title, kind and tasks of each table that is not empty."""
    sections = []
    for standing, title in STANDINGS.items():
        for kind, what in (("yes_no", "yes/no"), ("generate", "generated answers")):
            mine = [task for task in report.of(standing) if task.kind == kind]
            if mine:
                sections.append((f"{title}, {what}", kind, mine))
    return sections


def _subgroup_table(report: EvaluationReport) -> Table:
    """Return the headline metric of each group; a dash where its subjects are few."""
    table = Table(title="By sex, age and site")
    for column in ("task", "group", "n", "subjects", "metric", "value"):
        table.add_column(column, no_wrap=column == "group")
    for task in report.tasks:
        for group in task.subgroups:
            value = _short(group.metrics[task.headline]) if group.metrics else "-"
            numbers = (str(group.num_questions), str(group.num_subjects))
            name = f"{group.trait} {group.level}"
            table.add_row(task.task, name, *numbers, NAMES[task.headline], value)
    return table


def _removal_table(report: EvaluationReport) -> Table:
    """Return what each expert's absence does to AUROC; bold where that is decided."""
    effects = {(r.task, r.expert): r for r in report.removals}
    experts = sorted({r.expert for r in report.removals})
    table = Table(title="Change of AUROC without an expert; bold: the interval leaves out 0")
    table.add_column("task", no_wrap=True)
    for expert in experts:
        table.add_column(f"{expert}", justify="right")
    for task in dict.fromkeys(r.task for r in report.removals):
        mine = [effects[task, expert] for expert in experts]
        table.add_row(task, *map(_change, mine))
    return table


def _change(effect: ExpertRemoval) -> str:
    value = effect.change.value
    said = "-" if value is None else f"{value:+.3f}"
    return f"[bold]{said}[/bold]" if effect.is_decided else said


def _remarks(task: TaskResult) -> list[str]:
    """Return what a reader must know of one task's numbers."""
    lines = [task.note] if task.note else []
    if task.num_unreadable:
        lines.append(
            f"{task.num_unreadable} of {task.num_questions} answers were neither yes nor no "
            "and count as wrong"
        )
    if task.num_subjects == 1:
        lines.append(ONE_SUBJECT)
    for name, value in task.metrics.items():
        if value.note not in ("", ONE_SUBJECT) and name != "ece":  # AUROC has said the same
            lines.append(f"{NAMES[name]}: {value.note}")
    return lines


def _short(e: Estimate) -> str:
    """Return value and interval for a narrow column."""
    if e.value is None or e.low is None or e.high is None:
        return str(e)
    return f"{e.value:.3f} [{e.low:.2f}, {e.high:.2f}]"
