"""What the doctor asks of a cluster: one actor a node, and one where each client will run.

Everything is gathered here and judged in ``judgement.py``, which knows no Ray.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedkim_ray.doctor.facts import ClientFacts, MachineFacts, NodeFacts
from fedkim_ray.doctor.machine import machine_facts
from fedkim_ray.storage import Folder, beneath
from fedkim_ray.types import ClientId

PLACE_TIMEOUT_S = 30.0
"""Seconds until a probe must run where it was asked for."""
TRANSFER_TIMEOUT_S = 600.0


class Probe:
    """Looks at one node from a process of its own."""

    def machine(self, address: str) -> MachineFacts:
        """Return the machine's facts."""
        return machine_facts(address)

    def address(self) -> str:
        """Return the node's address."""
        return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]

    def clock(self) -> float:
        """Return this node's time."""
        return time.time()

    def write_problem(self, url: str) -> str:
        """Write and remove a file in the folder at ``url``; say why that fails."""
        name = f".doctor-{uuid.uuid4().hex}"
        try:
            folder = Folder.at(url)
            folder.write_bytes(name, b"")
            folder.remove(name)
        except Exception as error:  # any storage library's error
            return type(beneath(error)).__name__
        return ""

    def read_problem(self, url: str, client: ClientId) -> str:
        """Open a file of a client's and drop its first byte; say why that fails."""
        try:
            home = Folder.at(url) / "clients" / client
            files = home.glob("**/*.parquet")
            if not files:
                return "no files"
            with home.fs.open(home.full(files[0]), "rb") as file:
                file.read(1)
        except Exception as error:
            return type(beneath(error)).__name__
        return ""

    def receive(self, refs: Sequence[Any]) -> float:
        """Fetch an object to this node; return the seconds it took."""
        begun = time.monotonic()
        ray.get(refs[0])
        return time.monotonic() - begun

    def send(self, num_bytes: int) -> list[Any]:
        """Put an object of this size into this node's store and return its reference."""
        return [ray.put(np.zeros(num_bytes, np.uint8))]


RemoteProbe: Any = ray.remote(num_cpus=0, max_restarts=0)(Probe)


def look_at_nodes(run_url: str | None) -> list[NodeFacts]:
    """Return the facts of every node that is alive.

    Args:
        run_url: Folder that a run would write; not tried where None.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    probes = [_probe_on(node["NodeID"]) for node in nodes]
    facts = []
    for node, probe in zip(nodes, probes, strict=True):
        seen = probe.machine.remote(node["NodeManagerAddress"])
        machine = ray.get(seen, timeout=2 * PLACE_TIMEOUT_S)
        ahead, error = _clock(probe)
        problem = ray.get(probe.write_problem.remote(run_url)) if run_url else ""
        facts.append(
            NodeFacts(
                machine=machine,
                clock_ahead_s=ahead,
                clock_error_s=error,
                run_problem=problem,
                labels=node["Labels"],
            )
        )
        ray.kill(probe)
    return facts


def look_at_clients(
    clients: Sequence[ClientId],
    resources: Mapping[ClientId, Mapping[str, float]],
    labels: Mapping[ClientId, Mapping[str, str]],
    data_url: str,
    model_bytes: int,
) -> list[ClientFacts]:
    """Return each client's facts, one after another so that transfers do not share a line."""
    theta = [ray.put(np.zeros(model_bytes, np.uint8))]
    return [
        _client(c, clients, resources.get(c, {}), labels.get(c, {}), data_url, theta, model_bytes)
        for c in clients
    ]


def _client(
    client: ClientId,
    clients: Sequence[ClientId],
    resources: Mapping[str, float],
    labels: Mapping[str, str],
    data_url: str,
    theta: list[Any],
    model_bytes: int,
) -> ClientFacts:
    pins = {"resources": dict(resources), "label_selector": dict(labels)}
    probe = RemoteProbe.options(**{name: pin for name, pin in pins.items() if pin}).remote()
    try:
        address = ray.get(probe.address.remote(), timeout=PLACE_TIMEOUT_S)
        others = [c for c in clients if c != client]
        problems = ray.get([probe.read_problem.remote(data_url, c) for c in (client, *others)])
        down_s = ray.get(probe.receive.remote(theta), timeout=TRANSFER_TIMEOUT_S)
        [back] = ray.get(probe.send.remote(model_bytes))
        begun = time.monotonic()
        ray.get(back, timeout=TRANSFER_TIMEOUT_S)
        return ClientFacts(
            client=client,
            node=address,
            data_problem=problems[0],
            readable_others=tuple(c for c, p in zip(others, problems[1:], strict=True) if not p),
            down_s=down_s,
            up_s=time.monotonic() - begun,
        )
    except (GetTimeoutError, RayError):
        return ClientFacts(client=client, node="")
    finally:
        with suppress(RayError):
            ray.kill(probe)


def _probe_on(node_id: str) -> Any:
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return RemoteProbe.options(scheduling_strategy=there).remote()


def _clock(probe: Any) -> tuple[float, float]:
    """Return how far a node's clock is ahead of ours, and how well that is known."""
    before = time.time()
    there = ray.get(probe.clock.remote())
    after = time.time()
    return there - (before + after) / 2, (after - before) / 2
