"""Does the service hold its goals of speed? All serving benchmarks in turn, and a table.

    python -m benchmarks.serving_goals BUNDLE --data ROOT --out FOLDER

Wants a quiet machine and a trained bundle, for more than half an hour; ``--quick`` runs everything
for seconds, to see that it runs. Tokens a second are those of an untrained bundle of recipe
``demo``, whose answers go on to the last token; a trained one ends after a word. The JSON of the
benchmarks goes to FOLDER, where ``--table-only`` reads it again.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving_mix import HAPROXY
from benchmarks.untrained import write_untrained


@dataclass(frozen=True, slots=True)
class Run:
    """One benchmark and its settings."""

    module: str
    options: str
    quick: str
    """The options of a run that only shows that it runs."""
    untrained: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to this process's own environment."""


RUNS: Mapping[str, Run] = {
    "yes_no": Run(
        "serving",
        "--cases yes/no --repeats 5 --seconds 10",
        "--cases yes/no --repeats 1 --seconds 1 --peer-yes-no-tokens 2",
    ),
    "generation": Run(
        "serving",
        "--cases generation --repeats 5 --seconds 10",
        "--cases generation --repeats 1 --seconds 1 --max-tokens 4",
        untrained=True,
    ),
    "mix": Run(
        "serving_mix",
        "--repeats 5 --seconds 3",
        "--repeats 1 --seconds 1 --max-tokens 4 --pairs 2",
    ),
    "short_way": Run(
        "serving_mix",
        "--http-only --decode-in-api",
        "--http-only --decode-in-api --pairs 2",
        env={HAPROXY: "1"},
    ),
    "soak": Run("serving_soak", "--minutes 10", "--minutes 0.2 --max-tokens 4"),
}
WAYS = {"mix": "default", "short_way": "HAProxy and --decode-in-api"}
"""Runs that time one client's questions, and the way in that each takes."""
Row = tuple[str, str, str, bool]
"""What is measured, its goal, its value, and whether they agree."""


def run_all(given: argparse.Namespace) -> None:
    """Run each benchmark in a process of its own, whose JSON goes to the folder."""
    untrained = str(Path(given.out, "untrained"))
    write_untrained(untrained, "demo", given.data)
    for name, run in RUNS.items():
        bundle = untrained if run.untrained else given.bundle
        command = [sys.executable, "-m", f"benchmarks.{run.module}", bundle, "--data", given.data]
        command += ["--threads", str(given.threads), "--out", str(Path(given.out, f"{name}.json"))]
        command += (run.quick if given.quick else run.options).split()
        env = {**os.environ, **run.env}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)


def against_peer(found: Mapping[str, Any]) -> Iterator[Row]:
    """How many times the peer's rates the service has."""
    for case, unit, goal in (("yes/no", "requests", 4), ("generation", "tokens", 8)):
        times = found[case]["service over peer, 16 clients"][f"{unit}_per_s"]
        name = f"{case}, 16 clients: {unit}/s over FastAPI and `generate`"
        yield name, f"at least {goal}", f"{times:.1f}", times >= goal


def added(found: Mapping[str, Any]) -> Iterator[Row]:
    """What stands around the engine, and what mixing costs it."""
    for run, way in WAYS.items():
        for inputs, told in found[run]["http_and_serve"].items():
            ms = told["added_ms"]
            name = f"p50 that HTTP and Serve add at 1 client, {way}: {inputs}"
            yield name, "below 15 ms", f"{ms:.1f} ms", ms < 15
    for kind, told in found["mix"]["mixing"].items():
        times = told["mixed_over_alone"]
        name = f"{kind}: latency of all tasks mixed over alone"
        yield name, "at most 1.15", f"{times:.2f}", times <= 1.15


def lasting(found: Mapping[str, Any]) -> Iterator[Row]:
    """What a load that lasts does."""
    load = found["load"]
    asked = f"errors in {load['requests']:,} requests at 16 clients"
    yield asked, "0", str(load["errors"]), load["errors"] == 0
    for process, told in found["memory_mib"].items():
        ends = f"{told['first']:.0f} to {told['last']:.0f} MiB"
        value = f"{told['slope_mib_per_min']:+.2f} MiB/min ({ends})"
        yield f"memory of {process}", "reported", value, True


def table(folder: Path) -> list[str]:
    """Return the table, line by line, from the benchmarks' JSON."""
    found = {name: json.loads((folder / f"{name}.json").read_text())["results"] for name in RUNS}
    rows = [
        *against_peer(found["yes_no"] | found["generation"]),
        *added(found),
        *lasting(found["soak"]),
    ]
    lines = [
        f"| {name} | {goal} | {value} | {'yes' if held else 'NO'} |"
        for name, goal, value, held in rows
    ]
    return ["| | goal | measured | held |", "|---|---|---|---|", *lines]


def main() -> None:
    """Run the benchmarks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--data", required=True, help="data root whose test rows are asked")
    parser.add_argument("--out", required=True, help="folder of the benchmarks' JSON")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of both sides")
    parser.add_argument("--quick", action="store_true", help="for seconds; figures mean nothing")
    parser.add_argument("--table-only", action="store_true", help="read the folder, run nothing")
    given = parser.parse_args()
    if not given.table_only:
        run_all(given)
    print("\n".join(table(Path(given.out))))


if __name__ == "__main__":
    main()
