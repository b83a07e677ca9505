"""A study's tables: in the terminal one comparison a table, in Markdown one table a question."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from fedkim_ray.evaluation.bootstrap import Estimate
from fedkim_ray.evaluation.figures import SHORT
from fedkim_ray.evaluation.results import STANDINGS
from fedkim_ray.study.results import StudyReport, signed
from fedkim_ray.types import TaskId

ABLATIONS = ("public_only", "no_task", "no_modality")
"""Variants that take something away from the first; they get a table of their own."""


def print_study(report: StudyReport, console: Console) -> None:
    """Print the first arm against each other; where an interval holds 0, nothing is decided."""
    first = report.arms[0]
    console.print(f"[bold]{report.name}[/bold] on {report.data_name}. {report.subset_note}")
    console.print(f"{report.interval_note} AUROC, or token F1 of generated answers.")
    for arm in report.arms[1:] or report.arms:
        table = Table(
            title=f"{first} minus {arm}" if arm != first else first,
            box=box.SIMPLE,
            padding=(0, 1, 0, 0),
        )
        for column in ("task", "data", "n", "subjects", first, arm, "difference", "ahead"):
            table.add_column(column, no_wrap=column == "difference", overflow="fold")
        for row in _pairs(report, first, arm):
            table.add_row(*row)
        console.print(table)
    if report.few_subjects:
        console.print(report.few_subjects)


def _pairs(report: StudyReport, first: str, arm: str) -> Iterator[tuple[str, ...]]:
    ahead = {"first": first, "this": arm, "undecided": "undecided"}
    for r in report.headlines:
        own = report.headline(first, r.task)
        if r.arm == arm and own is not None:
            task = r.task if r.standing == "train" else f"{r.task} ({SHORT[r.standing]})"
            numbers = (str(r.num_questions), str(r.num_subjects))
            values = (_short(own.value.value), _short(r.value.value), signed(r.difference))
            yield (task, report.data_kinds.get(r.task, ""), *numbers, *values, ahead[r.verdict])


def markdown_tables(report: StudyReport) -> str:
    """Return the tables as Markdown: trained tasks, zero-shot, ablations, and the runs."""
    main = [arm for arm in report.variants if arm not in ABLATIONS or arm == report.arms[0]]
    ablations = [arm for arm in report.variants if arm not in main]
    parts = [
        ("Trained tasks", [*main, *report.references], report.tasks("train")),
        (STANDINGS["left_out"], main, report.tasks("left_out")),
        ("Zero-shot", main, report.tasks("unseen")),
        ("Ablations", [report.arms[0], *ablations] if ablations else [], _all_tasks(report)),
    ]
    texts = [
        f"### {title}\n\n{_values(report, arms, tasks)}\n{_differences(report, arms, tasks)}"
        for title, arms, tasks in parts
        if arms and tasks
    ]
    notes = f"{report.subset_note} {report.interval_note} {report.few_subjects}".rstrip()
    return "\n".join([f"{notes}\n", *texts, _runs(report)])


def _all_tasks(report: StudyReport) -> list[TaskId]:
    return [task for standing in STANDINGS for task in report.tasks(standing)]


def _values(report: StudyReport, arms: Sequence[str], tasks: Sequence[TaskId]) -> str:
    """Return one row a task: the headline metric of each arm with its interval."""
    rows = []
    for task in tasks:
        found = [report.headline(arm, task) for arm in arms]
        told = next(r for r in found if r)
        kind = report.data_kinds.get(task, "")
        cells = [task, kind, str(told.num_questions), str(told.num_subjects), told.metric]
        rows.append([*cells, *(str(r.value) if r else "-" for r in found)])
    return _table(["task", "data", "n", "subjects", "metric", *arms], rows)


def _differences(report: StudyReport, arms: Sequence[str], tasks: Sequence[TaskId]) -> str:
    """Return one row a task: the first arm minus each other; empty where there is no other."""
    others = [arm for arm in arms if arm != report.arms[0]]
    if not others:
        return ""
    rows = []
    for task in tasks:
        found = [report.headline(arm, task) for arm in others]
        if any(r and r.difference for r in found):
            rows.append([task, *(_marked(r.difference, r.verdict) if r else "-" for r in found)])
    heads = ["task", *(f"{report.arms[0]} - {arm}" for arm in others)]
    return "Paired differences; bold where the interval leaves out 0.\n\n" + _table(heads, rows)


def _marked(difference: Estimate | None, verdict: str) -> str:
    text = signed(difference)
    return text if verdict == "undecided" else f"**{text}**"


def _runs(report: StudyReport) -> str:
    rows = [
        [
            run.variant,
            str(run.seed),
            str(run.steps),
            "-" if run.training_s is None else f"{run.training_s:.0f}",
            f"{run.evaluation_s:.0f}",
            "copied" if run.shared_first_round else "computed",
            run.version,
        ]
        for run in report.runs
    ]
    heads = ["variant", "seed", "steps", "training s", "evaluation s", "first round", "bundle"]
    return "### Runs\n\n" + _table(heads, rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
