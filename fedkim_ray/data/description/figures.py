"""What a data root looks like: label balance, missingness, example images and ECG strips."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from fedkim_ray.data.description.survey import PlaceFacts
from fedkim_ray.data.loading import Example
from fedkim_ray.data.schema import SignalSpec
from fedkim_ray.drawing import new_figure, new_panels
from fedkim_ray.types import Modality

NO, YES = "#9db7c4", "#1f6f8b"
STRIP_SPREAD_MV = 2.0
"""Distance between the zero lines of two leads."""


def label_balance(places: Sequence[PlaceFacts]) -> Figure:
    """Bars of examples by place, the share of yes in dark."""
    figure, axes = new_figure(8.0, 0.8 + 0.28 * len(places))
    names = [f"{p.task} · {p.name}" for p in places]
    yes = np.array([p.num_yes or 0 for p in places])
    rest = np.array([p.num_examples for p in places]) - yes
    axes.barh(names, yes, color=YES, label="yes")
    axes.barh(names, rest, left=yes, color=NO, label="no, or no label")
    axes.invert_yaxis()
    axes.set_xlabel("examples")
    axes.legend(loc="lower right", fontsize=8)
    return figure


def missingness(places: Sequence[PlaceFacts], modality: Modality) -> Figure:
    """Map of places x features: the share of examples in which a feature was measured at all."""
    rows = [p for p in places if modality in p.features]
    features = [f.name for f in rows[0].features[modality]]
    shares = np.array([[f.ever_observed for f in p.features[modality]] for p in rows])
    figure, axes = new_figure(3.0 + 0.55 * len(features), 1.4 + 0.3 * len(rows))
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for (i, j), share in np.ndenumerate(shares):
        colour = "white" if share > 0.6 else "black"
        axes.text(j, i, f"{share:.0%}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(features)), features, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{p.task} · {p.name}" for p in rows], fontsize=8)
    axes.set_title(f"{modality}: examples with at least one value", fontsize=10)
    return figure


def image_row(examples: Sequence[Example]) -> Figure:
    """Images side by side, each with its answer."""
    figure, panels = new_panels(1.7 * len(examples), 2.0, columns=len(examples))
    for axes, example in zip(panels, examples, strict=True):
        axes.imshow(example.arrays["image"], cmap="gray", vmin=0, vmax=1)
        axes.set_title(example.answer[:24], fontsize=8)
        axes.set_axis_off()
    return figure


def ecg_strip(example: Example, spec: SignalSpec) -> Figure:
    """One electrocardiogram, a line a lead, on paper of 0.2 s by 0.5 mV."""
    signal = example.arrays["signal"]
    seconds = np.arange(signal.shape[1]) / spec.sampling_rate_hz
    figure, axes = new_figure(10.0, 0.8 + 0.62 * len(signal))
    for row, (lead, values) in enumerate(zip(spec.leads, signal, strict=True)):
        zero = -STRIP_SPREAD_MV * row
        axes.plot(seconds, values + zero, color="#20242b", linewidth=0.7)
        axes.text(0.0, zero + 0.6, lead, fontsize=8, color="#a03030")
    axes.set_xticks(np.arange(0, seconds[-1] + 0.2, 0.2), minor=True)
    axes.set_yticks(np.arange(-STRIP_SPREAD_MV * len(signal), 2.0, 0.5), minor=True)
    axes.grid(which="minor", color="#f2d3d3", linewidth=0.5)
    axes.set(xlabel=f"seconds; a box is 0.2 s by 0.5 {spec.unit}", yticks=[])
    axes.set_title(f"{example.task}: {example.answer}", fontsize=9, loc="left")
    axes.margins(x=0.01)
    return figure
