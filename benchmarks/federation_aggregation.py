"""What does aggregation cost? Memory of the server, seconds per GB, share of memory bandwidth.

    python -m benchmarks.federation_aggregation

Every update travels as bytes: decoded, validated, weighed and folded as in a round. The clients'
own time is left out; one packed update stands for all, so that the machine needs no 40 GB. Peak
memory counts everything since before there were parameters: theta, the update in hand, the rest.
"""

import resource
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.federation_noop import GROUP, parameters
from benchmarks.harness import interleave, options, report
from fedkim_ray.config import FederationConfig
from fedkim_ray.federation.clients import Delivered, Reply
from fedkim_ray.federation.coordinator import run_round
from fedkim_ray.federation.local_clients import LocalClients
from fedkim_ray.federation.plan import RoundPlan
from fedkim_ray.federation.strategies.fedavg import FedAvg
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.federation.wire import decode_update, encode_update
from fedkim_ray.types import Params

GB = 1e9


class PackedClients(LocalClients):
    """Clients whose updates lie packed; all are the same but for the name."""

    def __init__(self, num_clients: int, theta: Params) -> None:
        super().__init__([], seed=0)
        self._names = [f"c{k:05d}" for k in range(num_clients)]
        one = {name: torch.ones_like(value) for name, value in theta.items()}
        self._packed = encode_update(
            ClientUpdate(
                client_id="c", round_index=0, delta=one, num_examples={GROUP: 1}, metrics={}
            )
        )

    @property
    def ids(self) -> list[str]:
        """All clients."""
        return self._names

    def begin(self, plans: Mapping[str, RoundPlan], theta_global: Params) -> int:
        """Hand out plans."""
        self._waiting = dict(sorted(plans.items()))
        return 0

    def replies(self, timeout_s: float) -> Iterator[Reply]:
        """Answer for each."""
        while self._waiting:
            client_id = next(iter(self._waiting))
            del self._waiting[client_id]
            yield Delivered(client_id, 0, len(self._packed), partial(self._load, client_id))

    def _load(self, client_id: str) -> ClientUpdate:
        return replace(decode_update(self._packed, "c"), client_id=client_id)


def peak_bytes() -> int:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def held_bytes() -> int:
    """Return what it holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--millions", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    held = held_bytes()
    theta = {n: w + 1 for n, w in parameters(args.millions * 1_000_000).items()}
    model_bytes = sum(value.nbytes for value in theta.values())

    def fold(clients: PackedClients, params: Params = theta) -> None:
        strategy = FedAvg()
        federation = FederationConfig()
        run_round(strategy, strategy.init(params), clients, 0, federation=federation)

    many = PackedClients(args.clients, theta)
    small = parameters(80)
    fold(PackedClients(1, small), small)  # load what is loaded once
    begun = time.perf_counter()
    fold(many)
    whole_s, grown = time.perf_counter() - begun, peak_bytes() - held
    few = PackedClients(20, theta)
    a, b = torch.ones(model_bytes // 4), torch.ones(model_bytes // 4)
    timings = interleave(
        {"20 updates": lambda: fold(few), "one a += b of a model": lambda: a.add_(b)},
        args.repeats,
    )
    added_s = timings["one a += b of a model"].median_s
    seconds = timings["20 updates"].median_s
    gb = 20 * model_bytes / GB
    results = {
        "seconds_per_gb": seconds / gb,
        "machine_add_gb_per_s": 3 * model_bytes / GB / added_s,
        "aggregation_gb_per_s_moved": 4 * gb / seconds,
        "share_of_bandwidth": (4 * gb / seconds) / (3 * model_bytes / GB / added_s),
        "peak_in_models": grown / model_bytes,
        "all_clients_s": whole_s,
        "timings": {name: timing.as_json() for name, timing in timings.items()},
    }
    settings = {"clients": args.clients, "millions": args.millions, "threads": args.threads}
    report("What does aggregation cost the server?", settings, results, args.out)


if __name__ == "__main__":
    main()
