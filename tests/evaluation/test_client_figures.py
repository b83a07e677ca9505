"""Every client's line has the numbers of its rounds, and a gap where it missed one."""

import math
from typing import Any

from fedkim_ray.evaluation.client_figures import MAX_CLIENTS, client_curves


def round_of(index: int, **losses: float) -> dict[str, Any]:
    return {
        "round_index": index,
        "clients": [
            {"client_id": name, "metrics": {"train/loss": loss, "seconds": 3.0}, "update_norm": 2.0}
            for name, loss in losses.items()
        ],
    }


def test_lines_are_the_clients_own_numbers() -> None:
    figure = client_curves(
        [
            round_of(0, north=0.9, south=0.8),
            round_of(1, north=0.7),
            round_of(2, north=0.5, south=0.4),
        ]
    )
    assert figure is not None
    loss, seconds, norm = figure.axes
    north, south = loss.lines
    assert list(north.get_xdata()) == [1, 2, 3]
    assert list(north.get_ydata()) == [0.9, 0.7, 0.5]
    first, missed, last = south.get_ydata()
    assert (first, last) == (0.8, 0.4)
    assert math.isnan(missed)
    assert list(seconds.lines[0].get_ydata()) == [3.0] * 3
    assert list(norm.lines[0].get_ydata()) == [2.0] * 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["north", "south"]


def test_more_clients_than_an_eye_can_follow_are_counted() -> None:
    figure = client_curves([round_of(0, **{f"c{k:02d}": 1.0 for k in range(MAX_CLIENTS + 3)})])
    assert figure is not None
    assert len(figure.axes[0].lines) == MAX_CLIENTS
    assert figure.legends[0].get_title().get_text() == "3 more"


def test_rounds_without_clients_draw_nothing() -> None:
    assert client_curves([{"round_index": 0, "clients": []}]) is None
