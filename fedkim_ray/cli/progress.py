"""What a person sees while a run goes on: one bar for rounds, one for what happens in them."""

import json
import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def new_progress(console: Console) -> Progress:
    """Return the project's one style of progress bar."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def print_event(event: Mapping[str, Any]) -> None:
    """Print an event as one line of JSON, at once: a program follows the run by it."""
    print(json.dumps(event), flush=True)


class RunProgress:
    """Turns a run's events into bars; without a terminal, into one line an event."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = new_progress(console)
        self.rounds = self.progress.add_task("rounds", total=None, note="")
        self.stage = self.progress.add_task("starting", total=None, note="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event."""
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)

    def _show(self, description: str, total: int | None, note: str = "") -> None:
        self.progress.reset(self.stage, description=description, total=total, note=note)

    def _on_run_started(self, event: Mapping[str, Any]) -> None:
        self.progress.update(self.rounds, total=event["rounds"], completed=event["first"])
        who = ", ".join(event["clients"]) or "no clients: public data alone"
        self.console.print(f"Run {event['run_id']}: {who}.")

    def _on_clients_starting(self, event: Mapping[str, Any]) -> None:
        self._show("starting clients", len(event["clients"]))

    def _on_client_joined(self, event: Mapping[str, Any]) -> None:
        self.progress.update(self.stage, advance=1, note=event["client"])

    def _on_round_started(self, event: Mapping[str, Any]) -> None:
        self._show(f"round {event['round'] + 1}: clients train", len(event["clients"]))

    def _on_round_retried(self, event: Mapping[str, Any]) -> None:
        self._show(f"round {event['round'] + 1}: clients train again", len(event["clients"]))

    def _on_round_finished(self, event: Mapping[str, Any]) -> None:
        report = event["report"]
        moved = f"{report['bytes_down'] / 1e6:.1f} MB down, {report['bytes_up'] / 1e6:.1f} MB up"
        self.console.print(
            f"Round {event['round'] + 1}: {len(report['clients'])} of {report['num_sampled']} "
            f"clients, {report['seconds']:.1f} s, {moved}"
        )
        for group in report["kept_groups"]:
            self.console.print(f"[yellow]{group} keeps its values:[/] too few clients trained it")

    def _on_scoring_started(self, event: Mapping[str, Any]) -> None:
        self._show(f"round {event['round'] + 1}: clients score", len(event["clients"]))

    def _on_scored(self, event: Mapping[str, Any]) -> None:
        pairs = {
            task: (event["before"][task].get("auroc"), event["after"].get(task, {}).get("auroc"))
            for task in event["before"]
        }
        said = ", ".join(f"{t} {b:.3f} > {a:.3f}" for t, (b, a) in pairs.items() if b and a)
        if said:
            self.console.print(
                f"Round {event['round'] + 1}: heads' AUROC over the injection {said}"
            )

    def _on_client_lost(self, event: Mapping[str, Any]) -> None:
        self.console.print(f"[yellow]{event['client']} is lost[/]")

    def _on_client_absent(self, event: Mapping[str, Any]) -> None:
        self.console.print(f"[yellow]{event['client']} is absent:[/] {escape(event['message'])}")

    def _on_client_finished(self, event: Mapping[str, Any]) -> None:
        loss = event["metrics"].get("train/loss")
        note = event["client"] if loss is None else f"{event['client']} loss {loss:.3f}"
        self.progress.update(self.stage, advance=1, note=note)

    def _on_client_failed(self, event: Mapping[str, Any]) -> None:
        self.console.print(f"[yellow]{event['client']} failed:[/] {escape(event['message'])}")

    def _on_aggregated(self, event: Mapping[str, Any]) -> None:
        aurocs = ", ".join(f"{t} {v:.3f}" for t, v in event["valid_auroc"].items())
        if aurocs:
            self.console.print(f"Round {event['round'] + 1}: clients' AUROC {aurocs}")

    def _on_injection_started(self, event: Mapping[str, Any]) -> None:
        self._show(f"round {event['round'] + 1}: injection", event["steps"], "loading the model")

    def _on_injection_step(self, event: Mapping[str, Any]) -> None:
        self.progress.update(self.stage, advance=1, note=f"loss {event['loss']:.3f}")

    def _on_injection_workers_lost(self, event: Mapping[str, Any]) -> None:
        self.console.print(event["message"], style="yellow", markup=False, highlight=False)

    def _on_injected(self, event: Mapping[str, Any]) -> None:
        self.progress.update(self.rounds, advance=1)
        self.console.print(
            f"Round {event['round'] + 1}: injected, loss {event['loss']:.3f}, "
            f"{_routing(event)}{event['seconds']:.0f} s"
        )

    def _on_bundle(self, event: Mapping[str, Any]) -> None:
        self.console.print(f"Bundle {event['version']} at {event['url']}")


def _routing(event: Mapping[str, Any]) -> str:
    """Say how the last step was routed; nothing where it was not."""
    if "expert_load" not in event:
        return ""
    load = event["expert_load"]
    return (
        f"routing entropy {event['entropy_nats']:.3f} of at most {math.log(len(load)):.3f} nats, "
        f"load of an expert {min(load):.3f} to {max(load):.3f}, "
    )
