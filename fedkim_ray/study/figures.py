"""The study's bar figure: every arm on every task, with intervals."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fedkim_ray.evaluation.figures import new_figure
from fedkim_ray.study.results import StudyReport

COLOURS = ("#1f6f8b", "#c97b2a", "#7a9a3a", "#8a5a9e", "#b5494e", "#4d6fb3", "#8c8c8c", "#3d3d3d")
"""Arms in order; further ones repeat them."""
BAR_SHARE = 0.8
"""Share of a task's place that its bars fill."""


def study_bars(report: StudyReport) -> Figure:
    """AUROC, or token F1 of generated answers, of each arm; black lines are 95 % intervals."""
    tasks = [*report.tasks("train"), *report.tasks("unseen")]
    width = max(7.0, 1.2 + len(tasks) * (0.45 + 0.16 * len(report.arms)))
    figure, axes = new_figure(width, 4.4)
    for number, arm in enumerate(report.arms):
        _bars(axes, report, arm, tasks, number)
    num_trained = len(report.tasks("train"))
    if 0 < num_trained < len(tasks):
        axes.axvline(num_trained - 0.5, color="grey", linestyle=":", linewidth=1)
    axes.axhline(0.5, color="black", linestyle="--", linewidth=1)
    axes.set(ylim=(0, 1), ylabel="AUROC (token F1 of generated answers)")
    axes.set_xticks(range(len(tasks)), [_label(report, t) for t in tasks], rotation=30, ha="right")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=5, frameon=False, fontsize=8)
    return figure


def _bars(axes: Any, report: StudyReport, arm: str, tasks: list[str], number: int) -> None:
    """Draw one arm's bars, each with its interval."""
    width = BAR_SHARE / len(report.arms)
    shown = [(place, r) for place, t in enumerate(tasks) if (r := report.headline(arm, t))]
    shown = [(place, r) for place, r in shown if r.value.value is not None]
    x = np.array([place for place, _ in shown]) - BAR_SHARE / 2 + (number + 0.5) * width
    colour = COLOURS[number % len(COLOURS)]
    axes.bar(x, [r.value.value for _, r in shown], width=0.92 * width, color=colour, label=arm)
    for at, (_, r) in zip(x, shown, strict=True):
        if r.value.low is not None and r.value.high is not None:
            axes.plot([at, at], [r.value.low, r.value.high], color="black", linewidth=1.2)


def _label(report: StudyReport, task: str) -> str:
    """Name a task; synthetic data are called so wherever results on them are shown."""
    role = "" if task in report.tasks("train") else "unseen, "
    return f"{task}\n({role}{report.data_kinds.get(task, 'unknown')})"
