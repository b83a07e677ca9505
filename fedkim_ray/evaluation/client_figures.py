"""Curves of each client over the rounds, from the reports that the rounds published."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from fedkim_ray.drawing import new_panels

MAX_CLIENTS = 12
"""Lines that an eye can tell apart; of more clients the first by name are drawn."""
PANELS: tuple[tuple[str, Callable[[Mapping[str, Any]], float | None]], ...] = (
    ("training loss", lambda client: client["metrics"].get("train/loss")),
    ("seconds", lambda client: client["metrics"].get("seconds")),
    ("norm of the update", lambda client: client.get("update_norm")),
)


def client_curves(rounds: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Training loss, seconds and update norm of each client, round by round.

    A round that a client missed is a gap in its line.

    Args:
        rounds: Round reports: ``round_index`` and ``clients`` with ``client_id``, ``metrics`` and
            ``update_norm``.
    """
    by_round = {int(r["round_index"]) + 1: _by_client(r) for r in rounds if r.get("clients")}
    names = sorted({name for clients in by_round.values() for name in clients})
    if not names:
        return None
    figure, panels = new_panels(9.0, 3.2, columns=len(PANELS))
    xs = range(min(by_round), max(by_round) + 1)
    for axes, (title, value_of) in zip(panels, PANELS, strict=True):
        for name in names[:MAX_CLIENTS]:
            own = [by_round.get(x, {}).get(name) for x in xs]
            ys = [None if client is None else value_of(client) for client in own]
            nan = float("nan")
            axes.plot(xs, [nan if y is None else y for y in ys], marker="o", ms=4, label=name)
        axes.set(title=title, xlabel="round", ylim=(0, None), xticks=_ticks(xs))
        axes.title.set_size(9)
    handles, labels = axes.get_legend_handles_labels()
    more = f"{len(names) - MAX_CLIENTS} more" if len(names) > MAX_CLIENTS else None
    figure.legend(handles, labels, loc="outside right upper", frameon=False, title=more)
    return figure


def _by_client(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {client["client_id"]: client for client in report["clients"]}


def _ticks(rounds: Sequence[int]) -> list[int]:
    """Return at most eight whole rounds."""
    return [*rounds[:: 1 + (len(rounds) - 1) // 8]]
