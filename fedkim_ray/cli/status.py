"""``fedkim status`` and ``abort``: a run seen, and ended, from outside."""

import json
import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedkim_ray.cli import submit
from fedkim_ray.cli.options import AsJson

if TYPE_CHECKING:
    from fedkim_ray.run_folder import RunFolder

RunUrl = Annotated[str, typer.Argument(help="Folder of the run, or a submission's id.")]
IN_TABLES = ("current_round", "rounds_told", "last_failure", "auroc")


def status(out: RunUrl, as_json: AsJson = False) -> None:
    """Show where a run stands: phase, who is waited for, each round's numbers, failures."""
    from fedkim_ray.run_folder import RunFolder
    from fedkim_ray.run_status import read_status
    from fedkim_ray.types import SUBMISSION_PREFIX

    if out.startswith(SUBMISSION_PREFIX):
        submit.status(out, os.environ.get("RAY_ADDRESS"), as_json)
        return
    facts = read_status(RunFolder.open(out))
    if as_json:
        typer.echo(json.dumps(facts))
        return
    console = Console()
    table = Table(title=facts["run_id"], show_header=False)
    for name, value in facts.items():
        if name not in IN_TABLES:
            table.add_row(name.replace("_", " "), escape(str(value)))
    console.print(table)
    _show_rounds(console, facts)
    if now := facts["current_round"]:
        console.print(_current(now), markup=False)
    for client, said in facts["last_failure"].items():
        console.print(f"{client}, {said}", style="yellow", markup=False, highlight=False)


def _current(now: dict[str, Any]) -> str:
    """Say who has answered in the round under way, who failed and who is waited for."""
    failed = ", ".join(f"{client} ({cause})" for client, cause in now["failed"].items())
    return (
        f"Round {now['round'] + 1}: {len(now['finished'])} finished, failed: "
        f"{failed or 'none'}, waited for: {', '.join(now['waiting']) or 'none'}."
    )


def _show_rounds(console: Console, facts: dict[str, Any]) -> None:
    table = Table(title="Rounds")
    for column in ("round", "clients", "failures", "loss", "seconds", "MB down", "MB up"):
        table.add_column(column, justify="right")
    table.add_column("AUROC of the heads, before > after injection")
    for told in facts["rounds_told"]:
        scores = facts["auroc"].get(told["round"], {})
        table.add_row(
            str(told["round"] + 1),
            f"{told['clients']} of {told['sampled']}",
            str(told["failures"]),
            "-" if told["loss"] is None else f"{told['loss']:.3f}",
            f"{told['seconds']:.1f}",
            f"{told['bytes_down'] / 1e6:.2f}",
            f"{told['bytes_up'] / 1e6:.2f}",
            ", ".join(
                f"{task} {_short(s['before'])} > {_short(s['after'])}" for task, s in scores.items()
            ),
        )
    if facts["rounds_told"]:
        console.print(table)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def abort(
    out: RunUrl,
    wait_s: Annotated[
        float, typer.Option("--wait", help="Seconds to wait for the run's driver to end.", min=0)
    ] = 60.0,
) -> None:
    """End a run from any machine that reaches its folder; `fedkim run --resume` goes on with it."""
    from fedkim_ray.errors import StorageError
    from fedkim_ray.run_folder import RunFolder
    from fedkim_ray.storage import is_published
    from fedkim_ray.types import SUBMISSION_PREFIX

    if out.startswith(SUBMISSION_PREFIX):
        submit.abort(out, os.environ.get("RAY_ADDRESS"))
        return
    run = RunFolder.open(out)
    if is_published(run.bundle):
        raise StorageError(
            f"Run {run.run_id!r} is finished.", "Only a run that goes on is aborted.", "Leave it."
        )
    asked = time.time()
    run.request_abort()
    if _ended(run, asked, asked + wait_s):
        typer.echo(f"Aborted {run.run_id}. Go on with: fedkim run --resume --out {out}")
    else:
        typer.echo(
            f"The mark is set, but no driver of {run.run_id} answered within {wait_s:g} s: if one "
            "still runs, it will end at its next look."
        )


def _ended(run: "RunFolder", asked: float, deadline: float) -> bool:
    """Wait until the log says that the run was aborted."""
    from fedkim_ray.run_status import read_log

    while True:
        if any(e["event"] == "aborted" and e["time"] >= asked for e in read_log(run)):
            return True
        if time.time() >= deadline:
            return False
        time.sleep(0.5)
