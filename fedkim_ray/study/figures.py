"""The study's bar figure: every arm on every task, with intervals."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fedkim_ray.drawing import new_panels
from fedkim_ray.evaluation.results import STANDINGS, Standing
from fedkim_ray.study.results import StudyReport

COLOURS = (
    "#1f6f8b",
    "#c97b2a",
    "#7a9a3a",
    "#8a5a9e",
    "#b5494e",
    "#4d6fb3",
    "#8c8c8c",
    "#3d3d3d",
    "#59b3a9",
    "#d9a5c7",
    "#a67c52",
    "#c2c24a",
    "#e8907e",
    "#2e5d34",
    "#a9c6e8",
    "#6b1f4e",
)
"""Arms in order; further ones repeat them."""
BAR_SHARE = 0.8
"""Share of a task's place that its bars fill."""


def study_bars(report: StudyReport) -> Figure:
    """AUROC, or token F1 of generated answers, of each arm; black lines are 95 % intervals.

    Trained tasks above, with the supervised references; the others below, which those lack.
    """
    shown = [standing for standing in STANDINGS if report.tasks(standing)]
    figure, panels = new_panels(11.0, 0.8 + 3.1 * len(shown), rows=len(shown))
    for axes, standing in zip(panels, shown, strict=True):
        _panel(axes, report, standing)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    return figure


def _panel(axes: Any, report: StudyReport, standing: Standing) -> None:
    tasks = report.tasks(standing)
    arms = [arm for arm in report.arms if any(report.headline(arm, t) for t in tasks)]
    for number, arm in enumerate(arms):
        _bars(axes, report, arm, tasks, number, BAR_SHARE / len(arms))
    axes.axhline(0.5, color="black", linestyle="--", linewidth=1)
    axes.set(ylim=(0, 1), xlim=(-0.5, len(tasks) - 0.5), title=STANDINGS[standing])
    axes.set_ylabel("AUROC\n(generated: token F1)")
    labels = [f"{task}\n{report.data_kinds.get(task, 'unknown')}" for task in tasks]
    axes.set_xticks(range(len(tasks)), labels, fontsize=7)


def _bars(
    axes: Any, report: StudyReport, arm: str, tasks: list[str], number: int, width: float
) -> None:
    """Draw one arm's bars, each with its interval."""
    shown = [(place, r) for place, t in enumerate(tasks) if (r := report.headline(arm, t))]
    shown = [(place, r) for place, r in shown if r.value.value is not None]
    x = np.array([place for place, _ in shown]) - BAR_SHARE / 2 + (number + 0.5) * width
    colour = COLOURS[report.arms.index(arm) % len(COLOURS)]
    axes.bar(x, [r.value.value for _, r in shown], width=0.92 * width, color=colour, label=arm)
    for at, (_, r) in zip(x, shown, strict=True):
        if r.value.low is not None and r.value.high is not None:
            axes.plot([at, at], [r.value.low, r.value.high], color="black", linewidth=1.2)
