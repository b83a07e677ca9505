"""Do 10,000 virtual clients finish a round in a few slots, in linear time and flat memory?

    python -m benchmarks.federation_virtual --plot docs/virtual_clients.svg

Clients of a tiny model (1,024 values) train nothing; each is asked, answers, is validated and
folded. The driver's memory is its peak resident set, slots' are read while they live.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from benchmarks.federation_noop import open_no_training, parameters, setups
from benchmarks.harness import options, report
from fedkim_ray.config import FederationConfig
from fedkim_ray.drawing import new_panels
from fedkim_ray.federation.coordinator import run_round
from fedkim_ray.federation.ray_clients import RayClients
from fedkim_ray.federation.strategies.fedavg import FedAvg
from fedkim_ray.ray_connection import join_or_start

MB = 2**20
NUM_VALUES = 1024


def resident_mb(pid: int) -> float:
    """Return what a process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MB


def one_round(num_clients: int, slots: int) -> dict[str, Any]:
    """Run a round of a few clients that starts the slots' processes, then the timed one of all."""
    federation = FederationConfig(execution="pooled", num_slots=slots, cpus_per_client=0.5)
    strategy = FedAvg()
    state = strategy.init(parameters(NUM_VALUES))
    with (
        tempfile.TemporaryDirectory() as scratch,
        RayClients(
            setups(num_clients),
            federation,
            0,
            "virtual",
            scratch,
            opener=open_no_training,
        ) as clients,
    ):
        few = federation.model_copy(update={"clients_per_round": 2 * slots})
        state, _ = run_round(strategy, state, clients, 0, federation=few)
        begun = time.perf_counter()
        _, told = run_round(strategy, state, clients, 1, federation=federation)
        seconds = time.perf_counter() - begun
        slot_mb = max(resident_mb(member.pid) for member in clients.members().values())
    assert len(told.clients) == num_clients, told.failures
    result = {
        "clients": num_clients,
        "round_s": seconds,
        "ms_per_client": 1000 * seconds / num_clients,
        "phase_seconds": told.phase_seconds,
        "driver_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "slot_mb": slot_mb,
        "spilled": told.num_spilled,
    }
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


def plot(results: list[dict[str, Any]], path: str) -> None:
    """Draw seconds and memory over the number of clients."""
    figure, [seconds, memory] = new_panels(8, 3.2, columns=2)
    numbers = [r["clients"] for r in results]
    seconds.plot(numbers, [r["round_s"] for r in results], marker="o")
    seconds.set(xlabel="virtual clients", ylabel="seconds a round", ylim=(0, None))
    memory.plot(numbers, [r["driver_peak_mb"] for r in results], marker="o", label="driver, peak")
    memory.plot(numbers, [r["slot_mb"] for r in results], marker="s", label="slot")
    memory.set(xlabel="virtual clients", ylabel="resident MB", ylim=(0, None))
    memory.legend(frameon=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--clients", type=int, nargs="+", default=[1000, 2500, 5000, 10_000])
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--plot", help="write a figure there")
    args = parser.parse_args()
    join_or_start(num_cpus=4, object_store_memory=300 * MB)
    results = [one_round(number, args.slots) for number in args.clients]
    ray.shutdown()
    settings = {"slots": args.slots, "values": NUM_VALUES}
    report("Do 10,000 virtual clients finish a round?", settings, results, args.out)
    if args.plot:
        plot(results, args.plot)


if __name__ == "__main__":
    main()
