"""Figures as what a page or a file holds; without pyplot, so from any thread."""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure


def new_figure(width_in: float, height_in: float) -> tuple[Figure, Any]:
    """Return a figure with one pair of axes."""
    figure, [axes] = new_panels(width_in, height_in)
    return figure, axes


def new_panels(
    width_in: float, height_in: float, *, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Any]]:
    """Return a figure with pairs of axes below and beside each other, and these row by row."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, [*np.ravel(figure.subplots(rows, columns))]


def svg(figure: Figure) -> str:
    """Return a figure as an SVG element, the same bytes each time."""
    sink = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "fedkim"}):
        figure.savefig(sink, format="svg", metadata={"Date": None})
    text = sink.getvalue()
    return text[text.index("<svg") :]


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG of 150 dots an inch."""
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=150)
    return sink.getvalue()
