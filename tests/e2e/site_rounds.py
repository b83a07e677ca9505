"""Two federated rounds on three users' nodes: the server's part of ``test_sites.py``.

In the first round south is still at work when its node is taken away; the second begins once it
is back. Says where it is, a line each, and at the end in JSON who took part.
"""

import json
import sys
import time
from typing import Any

from fedkim_ray.config import FederationConfig
from fedkim_ray.data.demo.tiny import CLIENTS, SPEC
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.federation.client import OpenClients
from fedkim_ray.federation.clients import Event
from fedkim_ray.federation.coordinator import run_round
from fedkim_ray.federation.ray_clients import RayClients
from fedkim_ray.federation.setup import make_setups
from fedkim_ray.federation.strategies.fedavg import FedAvg
from fedkim_ray.ray_connection import join_or_start
from fedkim_ray.recipe_files import load_recipe

TRAINED = {t.id: t for t in TASKS if t.role == "train"}
ROUND_S = 120.0


class SouthIsSlow(OpenClients):
    """Clients of whom south stays at work for the whole of the first round."""

    def __call__(self, client_id: str) -> Any:
        """Open a client."""
        client = super().__call__(client_id)
        if client_id == "south":
            train = client.train_round

            def slowly(plan: Any, theta_global: Any) -> Any:
                time.sleep(ROUND_S if plan.round_index == 0 else 0.0)
                return train(plan, theta_global)

            client.train_round = slowly
        return client


def main(data_url: str, scratch: str) -> None:
    """Run both rounds."""
    federation = FederationConfig(
        cpus_per_client=1.0,
        client_selector={client: {"site": client} for client in CLIENTS},
        client_timeout_s=ROUND_S,
    )
    encoders = load_recipe("tiny").encoders
    own = {c: tuple(TRAINED[t] for t in tasks) for c, tasks in CLIENTS.items()}
    every = [*TRAINED.values()]
    setups = make_setups(list(CLIENTS), data_url, SPEC, encoders, own, every, federation)
    state = FedAvg().init(LightModel(encoders, SPEC, every).params())
    with (
        join_or_start(),
        RayClients(setups, federation, 7, "sites", scratch, opener=SouthIsSlow) as clients,
    ):
        state, first = run_round(FedAvg(), state, clients, 0, federation=federation, on_event=say)
        there = list(clients.available)
        print("lost", flush=True)
        while len(clients.available) < len(CLIENTS):
            time.sleep(0.2)
        _, second = run_round(FedAvg(), state, clients, 1, federation=federation)
    rounds = [[c.client_id for c in report.clients] for report in (first, second)]
    failures = [(f.client_id, f.cause) for f in (*first.failures, *second.failures)]
    said = {"rounds": rounds, "failures": failures, "there": there, "seconds": first.seconds}
    print(json.dumps(said))


def say(event: Event) -> None:
    """Say that something happened."""
    print(event["event"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
