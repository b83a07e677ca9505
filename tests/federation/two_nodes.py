"""A cluster of two nodes on this machine, one of which goes and comes back; prints what happened.

Run by ``test_ray_cluster.py`` in a process of its own, since a process joins one cluster.
"""

import json
import sys
import tempfile
import time
from typing import Any

import ray
import torch
from ray.cluster_utils import Cluster

from fedkim_ray.config import FederationConfig, load_recipe
from fedkim_ray.data.demo.tiny import CLIENTS, SPEC
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.federation.clients import Event
from fedkim_ray.federation.coordinator import run_round
from fedkim_ray.federation.ray_clients import RayClients, open_clients
from fedkim_ray.federation.strategies.fedavg import FedAvg

TRAINED = {t.id: t for t in TASKS if t.role == "train"}
NODE = {"num_cpus": 1, "object_store_memory": 150 * 2**20, "labels": {"site": "south"}}


def main(data_url: str) -> None:
    """Take south's node away while its client trains, go on, and bring it back."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2,
            "include_dashboard": False,
            "object_store_memory": 200 * 2**20,
            "labels": {"site": "north"},
        },
    )
    node = cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False)
    encoders = load_recipe("tiny").encoders
    federation = FederationConfig(
        cpus_per_client=0.5,
        client_selector={client: {"site": client} for client in CLIENTS},
    )
    said: dict[str, Any] = {}
    state = FedAvg().init(LightModel(encoders, SPEC, list(TRAINED.values())).params())

    def train(
        clients: RayClients, r: int, timeout_s: float = 120.0, on_event: Any = None
    ) -> list[str]:
        asked = federation.model_copy(update={"client_timeout_s": timeout_s})
        _, report = run_round(FedAvg(), state, clients, r, federation=asked, on_event=on_event)
        said[f"failures_{r}"] = report.failures_by_cause
        return [client.client_id for client in report.clients]

    def take_away(event: Event) -> None:
        if event["event"] == "round_started":
            cluster.remove_node(node)

    with (
        tempfile.TemporaryDirectory() as scratch,
        open_clients(
            "resident",
            client_ids=list(CLIENTS),
            data_url=data_url,
            spec=SPEC,
            encoders=encoders,
            tasks_by_client={c: tuple(TRAINED[t] for t in ids) for c, ids in CLIENTS.items()},
            all_tasks=list(TRAINED.values()),
            federation=federation,
            seed=7,
            run_id="nodes",
            scratch=scratch,
        ) as clients,
    ):
        assert isinstance(clients, RayClients)
        nodes = {n["NodeID"]: n["Labels"]["site"] for n in ray.nodes()}
        said["where"] = {c: nodes[m.node] for c, m in clients.members().items()}
        said["before"] = train(clients, 0)
        said["while"] = train(clients, 1, timeout_s=20.0, on_event=take_away)
        said["available"] = list(clients.available)
        said["without"] = train(clients, 2)
        cluster.add_node(**NODE)
        deadline = time.monotonic() + 90.0
        while "south" not in clients.available and time.monotonic() < deadline:
            time.sleep(0.5)
        said["after"] = train(clients, 3)
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps(said))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
