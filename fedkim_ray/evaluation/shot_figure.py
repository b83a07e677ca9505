"""The curve over shots as JSON, SVG and PNG."""

from typing import Any

from matplotlib.figure import Figure

from fedkim_ray.drawing import new_figure, png, svg
from fedkim_ray.evaluation.bootstrap import Estimate
from fedkim_ray.evaluation.figures import COLOURS
from fedkim_ray.evaluation.shots import ShotCurve
from fedkim_ray.storage import Folder


def write_curve(curve: ShotCurve, folder: Folder) -> None:
    """Write ``shots.json``, ``shots.svg`` and ``shots.png``."""
    figure = curve_figure(curve)
    folder.write_bytes("shots.svg", svg(figure).encode())
    folder.write_bytes("shots.png", png(figure))
    folder.write_json("shots.json", curve.model_dump(mode="json"))


def curve_figure(curve: ShotCurve) -> Figure:
    """The metric over shots of both models, with 95 % intervals by subject."""
    figure, axes = new_figure(6.4, 3.8)
    _line(axes, curve, [p.injected for p in curve.points], "injected", COLOURS["train"], -0.06)
    _line(
        axes,
        curve,
        [p.uninjected for p in curve.points],
        "without injection",
        COLOURS["unseen"],
        0.06,
    )
    if curve.metric == "auroc":
        axes.axhline(0.5, color="black", linestyle="--", linewidth=1)
    axes.set_xticks(range(len(curve.points)), [str(p.shots) for p in curve.points])
    axes.set(ylim=(0, 1), xlabel="shots", ylabel=curve.metric)
    axes.set_title(f"{curve.task}, {curve.data_kind} data, {curve.num_questions} questions", size=9)
    axes.legend(loc="lower right", frameon=False)
    return figure


def _line(
    axes: Any, curve: ShotCurve, values: list[Estimate], label: str, colour: str, aside: float
) -> None:
    """Draw one model's curve; ``aside`` keeps the two models' intervals apart."""
    shown = [(x + aside, e) for x, e in enumerate(values) if e.value is not None]
    axes.plot([x for x, _ in shown], [e.value for _, e in shown], "o-", color=colour, label=label)
    for x, e in shown:
        if e.low is not None and e.high is not None:
            axes.plot([x, x], [e.low, e.high], color=colour, linewidth=1)
