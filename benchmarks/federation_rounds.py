"""What does a round cost beside training? Resident and pooled clients against Flower's simulation.

    export FEDKIM_FLOWER_PYTHON=DIR/bin/python     # benchmarks/peers/flower_env.sh DIR
    python -m benchmarks.federation_rounds --millions 1 10 --clients 2 4 8

Clients train nothing and send a whole model back. The sides take turns, each in a process and a
Ray of its own; within a process the median over rounds counts. The first round has the start-up in
it and is told apart, from the process's launch on, and so is the median of the next seven: helpers
of Ray's own start until then. Our clients import torch; Flower's do in a side of its own.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.federation_noop import open_no_training, parameters, setups
from benchmarks.harness import options, report
from fedkim_ray.config import FederationConfig
from fedkim_ray.federation.coordinator import run_round
from fedkim_ray.federation.strategies.fedavg import FedAvg

TIMEOUT_S = 300.0
EARLY = 7
"""Rounds after the first that are reported by themselves, too."""
CPUS = 4
"""Logical CPUs of our Ray: all residents start at once on two cores."""


def ours(execution: str, num_values: int, num_clients: int, num_rounds: int, slots: int) -> None:
    """Time our rounds; JSON on the last line of stdout."""
    import ray

    from fedkim_ray.federation.ray_clients import RayClients
    from fedkim_ray.ray_connection import join_or_start

    join_or_start(
        num_cpus=slots if execution == "pooled" else CPUS,
        object_store_memory=max(2 * num_clients + 4, 8) * num_values * 4 + 2**27,
    )
    federation = FederationConfig(
        execution=execution,
        cpus_per_client=1.0 if execution == "pooled" else CPUS / max(num_clients, CPUS),
        num_slots=slots,
        client_timeout_s=300.0,
    )
    strategy, ends = FedAvg(), []
    state = strategy.init(parameters(num_values))
    with tempfile.TemporaryDirectory() as scratch:
        clients = RayClients(
            setups(num_clients),
            federation,
            0,
            "bench",
            scratch,
            opener=open_no_training,
        )
        with clients:
            for r in range(num_rounds):
                state, told = run_round(strategy, state, clients, r, federation=federation)
                assert len(told.clients) == num_clients, told.failures
                ends.append(time.monotonic())
    ray.shutdown()
    rounds_s = [after - before for before, after in itertools.pairwise(ends)]
    print(json.dumps({"first_at": ends[0], "rounds_s": rounds_s}))


def measure(command: list[str]) -> dict[str, Any]:
    """Run one side in a process of its own; its clock and this one's are the machine's."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    begun = time.monotonic()
    # A simulation whose engine has crashed waits for ever.
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=TIMEOUT_S, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"first_s": told["first_at"] - begun, "rounds_s": told["rounds_s"]}


def cell(args: argparse.Namespace, millions: int, num_clients: int) -> dict[str, Any]:
    """Measure all sides of one size, in turn."""
    common = [str(millions * 1_000_000), str(num_clients), str(args.rounds), str(args.slots)]
    flower = str(Path(__file__).with_name("peers") / "flower_rounds.py")
    peer = [os.environ["FEDKIM_FLOWER_PYTHON"], flower, *common]
    sides = {"flower": peer, "flower_with_torch": [*peer, "torch"]}
    for execution in args.executions:
        sides[execution] = [sys.executable, "-m", __spec__.name, "--one", execution, *common]
    told: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(args.processes):
        for side, command in sides.items():
            told[side].append(measure(command))
    result: dict[str, Any] = {"millions": millions, "clients": num_clients}
    for side, runs in told.items():
        rounds_s = [s for run in runs for s in run["rounds_s"]]
        result[side] = {
            "round_median_s": statistics.median(rounds_s),
            "early_median_s": statistics.median(s for run in runs for s in run["rounds_s"][:EARLY]),
            "round_min_s": min(rounds_s),
            "round_max_s": max(rounds_s),
            "first_round_after_s": statistics.median(run["first_s"] for run in runs),
        }
    for execution in args.executions:
        share = result[execution]["round_median_s"] / result["flower"]["round_median_s"]
        result[execution]["share_of_flowers_round"] = share
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--millions", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--clients", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--executions", nargs="+", default=["resident", "pooled"])
    parser.add_argument("--rounds", type=int, default=61)
    parser.add_argument("--processes", type=int, default=1, help="processes of each side")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        ours(args.one[0], *map(int, args.one[1:]))
        return
    results = [cell(args, m, n) for m in args.millions for n in args.clients]
    settings = {"rounds": args.rounds, "processes": args.processes, "slots": args.slots}
    report("What does a round cost beside training?", settings, results, args.out)


if __name__ == "__main__":
    main()
