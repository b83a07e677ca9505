"""The report's figures that are drawn from every answer: ROC curves and calibration."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from fedkim_ray.drawing import new_panels
from fedkim_ray.evaluation.answers import of_task
from fedkim_ray.evaluation.metrics import NUM_BINS, bins_of
from fedkim_ray.evaluation.results import STANDINGS, EvaluationReport, TaskResult


def roc_curves(answers: pa.Table, report: EvaluationReport) -> Figure | None:
    """ROC curves of all tasks that have probabilities, those of each standing apart."""

    def draw(axes: Any, rows: pa.Table, task: TaskResult) -> None:
        fpr, tpr, _ = roc_curve(rows["label"].to_numpy(), rows["probability_yes"].to_numpy())
        axes.plot(fpr, tpr, label=f"{task.task} {task.metrics['auroc'].value:.2f}")

    labels = ("false positive rate", "true positive rate", "task, AUROC")
    return _panels(answers, report, draw, labels)


def calibration_curves(answers: pa.Table, report: EvaluationReport) -> Figure | None:
    """Share of yes among the answers of each bin of P(yes); a calibrated model is on the diagonal.

    The area of a point is the share of the questions that fall into its bin.
    """

    def draw(axes: Any, rows: pa.Table, task: TaskResult) -> None:
        p_B, yes_B, share_B = calibration(
            rows["probability_yes"].to_numpy(), rows["label"].to_numpy()
        )
        (line,) = axes.plot(p_B, yes_B, linewidth=1, label=f"{task.task} {_ece(task)}")
        axes.scatter(p_B, yes_B, s=120 * share_B, color=line.get_color())

    return _panels(answers, report, draw, ("mean P(yes) of the bin", "share of yes", "task, ECE"))


def calibration(
    probability_N: np.ndarray, label_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean P(yes), share of yes and share of all answers of each bin that is not empty."""
    bin_N = bins_of(probability_N)
    count_B = np.bincount(bin_N, minlength=NUM_BINS)
    some_B = count_B > 0
    p_B = np.bincount(bin_N, probability_N, NUM_BINS)[some_B] / count_B[some_B]
    yes_B = np.bincount(bin_N, label_N, NUM_BINS)[some_B] / count_B[some_B]
    return p_B, yes_B, count_B[some_B] / len(label_N)


def _panels(
    answers: pa.Table,
    report: EvaluationReport,
    draw: Callable[[Any, pa.Table, TaskResult], None],
    labels: tuple[str, str, str],
) -> Figure | None:
    """Draw every task that has an AUROC in the panel of its standing; None where none has."""
    scored = {
        title: [
            t
            for t in report.of(standing)
            if t.metrics.get("auroc") and t.metrics["auroc"].value is not None
        ]
        for standing, title in STANDINGS.items()
    }
    scored = {title: tasks for title, tasks in scored.items() if tasks}
    if not scored:
        return None
    figure, panels = new_panels(4.6 * len(scored), 4.4, columns=len(scored))
    for axes, (title, tasks) in zip(panels, scored.items(), strict=True):
        for task in tasks:
            draw(axes, of_task(answers, task.task), task)
        axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1)
        axes.set(xlabel=labels[0], ylabel=labels[1], title=title)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.legend(loc="best", fontsize=8, frameon=False, title=labels[2])
    return figure


def _ece(task: TaskResult) -> str:
    value = task.metrics["ece"].value
    return "-" if value is None else f"{value:.2f}"
