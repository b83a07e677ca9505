"""The report's figures."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fedkim_ray.drawing import new_figure
from fedkim_ray.evaluation.results import EvaluationReport, Standing, TaskResult

COLOURS: Mapping[Standing, str] = {"train": "#1f6f8b", "left_out": "#8a5a9e", "unseen": "#c97b2a"}
SHORT: Mapping[Standing, str] = {"train": "trained", "left_out": "left out", "unseen": "unseen"}
WINDOW_STEPS = 10
"""Steps that a smoothed loss is a mean of."""


def auroc_bars(report: EvaluationReport) -> Figure | None:
    """AUROC of each yes/no task with its interval; the dashed line is chance."""
    rows = [t for t in report.tasks if t.kind == "yes_no" and t.metrics["auroc"].value is not None]
    if not rows:
        return None
    figure, axes = new_figure(9.0, 1.2 + 0.36 * len(rows))
    for place, row in enumerate(rows):
        _bar(axes, place, row)
    axes.axvline(0.5, color="black", linestyle="--", linewidth=1, label="chance, 0.5")
    for standing, label in SHORT.items():
        if standing != "left_out" or report.of(standing):
            axes.barh([0], [0], color=COLOURS[standing], label=label)
    if any(row.data_kind != "real" for row in rows):
        axes.barh([0], [0], color="white", edgecolor="grey", hatch="//", label="synthetic data")
    axes.set_yticks(range(len(rows)), [row.task for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="AUROC; black line: 95 % bootstrap interval by subject")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, frameon=False, fontsize=8)
    return figure


def routing_map(report: EvaluationReport) -> Figure | None:
    """Expert weights of each task, as shares of one; modality by modality where it has several."""
    rows: list[tuple[str, Sequence[float]]] = []
    for task in report.tasks:
        if task.routing:
            rows.append((f"{task.task} ({SHORT[task.standing]})", task.routing.expert_weights))
            rows += [(f"{m} alone", w) for m, w in task.routing.by_modality.items()]
    if not rows:
        return None
    weights = np.array([w for _, w in rows])
    uniform = 100 / weights.shape[1]
    figure, axes = _expert_map(weights, [label for label, _ in rows], 0.0, weights.max(), "viridis")
    axes.set(title=f"weight in %; uniform is {uniform:.1f}")
    axes.title.set_size(9)
    figure.colorbar(axes.images[0], ax=axes, label="expert weight, rows sum to 1")
    return figure


def removal_map(report: EvaluationReport) -> Figure | None:
    """Change of each task's AUROC when an expert is taken away, in hundredths."""
    tasks = list(dict.fromkeys(r.task for r in report.removals))
    if not tasks:
        return None
    num_experts = 1 + max(r.expert for r in report.removals)
    change = np.full((len(tasks), num_experts), np.nan)
    for r in report.removals:
        change[tasks.index(r.task), r.expert] = np.nan if r.change.value is None else r.change.value
    largest = max(0.01, float(np.nanmax(np.abs(change), initial=0.0)))
    figure, axes = _expert_map(change, tasks, -largest, largest, "RdBu")
    axes.set(title="change of AUROC without the expert, in hundredths")
    axes.title.set_size(9)
    figure.colorbar(axes.images[0], ax=axes, label="AUROC without it - AUROC with it")
    return figure


def _expert_map(
    values: np.ndarray, labels: Sequence[str], low: float, high: float, colours: str
) -> tuple[Figure, Any]:
    """Draw rows x experts; numbers, in hundredths, where they fit."""
    num_experts = values.shape[1]
    figure, axes = new_figure(max(6.0, 4.0 + 0.45 * num_experts), 1.2 + 0.34 * len(labels))
    axes.imshow(values, vmin=low, vmax=high, cmap=colours, aspect="auto")
    if num_experts <= 16:
        for (row, expert), value in np.ndenumerate(values):
            r, g, b, _ = axes.images[0].to_rgba(value)
            ink = "black" if 0.3 * r + 0.6 * g + 0.1 * b > 0.5 else "white"
            text = "-" if np.isnan(value) else f"{100 * value:.0f}"
            axes.text(expert, row, text, ha="center", va="center", c=ink, size=7)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xticks(range(num_experts), [str(p) for p in range(num_experts)])
    axes.set(xlabel="expert")
    return figure, axes


def loss_curves(logs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Injection loss of each task over the steps of all rounds.

    Args:
        logs: One round each: ``steps``, ``loss`` and ``loss_by_task`` (pairs of step and loss).
    """
    by_task: dict[str, list[tuple[int, float]]] = {}
    for log in logs:
        for task, pairs in log["loss_by_task"].items():
            by_task.setdefault(task, []).extend((int(s), float(x)) for s, x in pairs)
    if not by_task:
        return None
    figure, axes = new_figure(8.0, 3.6)
    for task, pairs in sorted(by_task.items()):
        steps, losses = np.array([s for s, _ in pairs]), np.array([x for _, x in pairs])
        (line,) = axes.plot(steps, _running_mean(losses), label=task)
        axes.plot(steps, losses, color=line.get_color(), alpha=0.25, linewidth=0.8)
    for log in logs[1:]:
        if log["steps"]:
            axes.axvline(log["steps"][0], color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel="injection step, over all rounds (dotted: a round begins)", ylim=(0, None))
    axes.set_ylabel("loss, nats per answer token")
    title = f"bold: mean of the last {WINDOW_STEPS} steps"
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, title=title)
    return figure


def round_curves(rounds: Sequence[Mapping[str, Any]]) -> Figure | None:
    """AUROC of the federated heads on the clients' validation splits, round by round.

    Args:
        rounds: Round reports: ``round_index`` and ``tasks`` with ``auroc_before`` and
            ``auroc_after`` the clients' training.
    """
    points = [
        (task, int(r["round_index"]) + 1, values["auroc_before"], values["auroc_after"])
        for r in rounds
        for task, values in r.get("tasks", {}).items()
        if "auroc_before" in values and "auroc_after" in values
    ]
    if not points:
        return None
    figure, axes = new_figure(8.0, 3.6)
    for task, mine in groupby(sorted(points), key=lambda point: point[0]):
        xs, befores, afters = np.array([point[1:] for point in mine]).T
        # Two points a round: what came from the server, and what the clients made of it.
        x = np.stack([xs - 0.4, xs], 1).ravel()
        axes.plot(x, np.stack([befores, afters], 1).ravel(), marker="o", markersize=4, label=task)
    axes.axhline(0.5, color="black", linestyle="--", linewidth=1)
    axes.set(ylim=(0, 1), xlabel="round (left point: before the clients' training; right: after)")
    axes.set_xticks(sorted({point[1] for point in points}))
    axes.set_ylabel("AUROC of the heads, validation")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return figure


def _bar(axes: Any, place: int, row: TaskResult) -> None:
    """Draw one task's bar, its interval and its number."""
    e = row.metrics["auroc"]
    hatch = "" if row.data_kind == "real" else "//"
    colour = COLOURS[row.standing]
    axes.barh(place, e.value, color=colour, hatch=hatch, edgecolor="white", height=0.7)
    if e.low is not None and e.high is not None:
        axes.plot([e.low, e.high], [place, place], color="black", linewidth=2, clip_on=False)
    axes.text(1.02, place, str(e), va="center", fontsize=9)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean of each value and up to WINDOW_STEPS - 1 before it."""
    ends = range(1, len(values) + 1)
    return np.array([values[max(0, end - WINDOW_STEPS) : end].mean() for end in ends])
