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

from fedkim_ray.doctor.facts import ClientFacts, MachineFacts, NodeFacts, SilentNode
from fedkim_ray.doctor.machine import machine_facts
from fedkim_ray.storage import Folder
from fedkim_ray.types import ClientId

START_TIMEOUT_S = 60.0
"""Seconds in which all nodes' probes must have started and looked at their machines."""
PLACE_TIMEOUT_S = 30.0
"""Seconds until a probe must run where a client's pins lead."""
ANSWER_TIMEOUT_S = 30.0
"""Seconds for any other answer: a mount that hangs gives none."""


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
            folder.fs.rm(folder.full(name))
        except Exception as error:  # any storage library's error
            return type(error).__name__
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
            return type(error).__name__
        return ""

    def receive(self, refs: Sequence[Any]) -> float:
        """Fetch an object to this node; return the seconds it took."""
        begun = time.monotonic()
        ray.get(refs[0])
        return time.monotonic() - begun

    def send(self, refs: Sequence[Any]) -> list[Any]:
        """Put a copy of an object into this node's store and return its reference."""
        return [ray.put(ray.get(refs[0]))]


RemoteProbe: Any = ray.remote(num_cpus=0, max_restarts=0)(Probe)


def look_at_nodes(run_url: str | None) -> tuple[list[NodeFacts], list[SilentNode]]:
    """Return the facts of the nodes that are alive, and which of these nodes give none.

    Args:
        run_url: Folder that a run would write; not tried where None.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    probes = [_probe_on(node["NodeID"]) for node in nodes]
    facts, silent = [], []
    try:
        machines = [
            probe.machine.remote(node["NodeManagerAddress"])
            for node, probe in zip(nodes, probes, strict=True)
        ]
        ray.wait(machines, num_returns=len(machines), timeout=START_TIMEOUT_S)
        for node, probe, machine in zip(nodes, probes, machines, strict=True):
            try:
                facts.append(_node(node, probe, ray.get(machine, timeout=0), run_url))
            except RayError as error:
                silent.append(SilentNode(address=node["NodeManagerAddress"], problem=_why(error)))
    finally:
        for probe in probes:
            _end(probe)
    return facts, silent


def look_at_clients(
    clients: Sequence[ClientId],
    resources: Mapping[ClientId, Mapping[str, float]],
    labels: Mapping[ClientId, Mapping[str, str]],
    data_url: str,
    model_bytes: int,
    transfer_timeout_s: float,
) -> list[ClientFacts]:
    """Return each client's facts, one after another so that transfers do not share a line."""
    theta = [ray.put(np.zeros(model_bytes, np.uint8))]
    found = []
    for client in clients:
        pins = {
            "resources": dict(resources.get(client, {})),
            "label_selector": dict(labels.get(client, {})),
        }
        probe = RemoteProbe.options(**{name: pin for name, pin in pins.items() if pin}).remote()
        try:
            others = [c for c in clients if c != client]
            found.append(_client(client, others, probe, data_url, theta, transfer_timeout_s))
        finally:
            _end(probe)
    return found


def _node(node: Mapping[str, Any], probe: Any, machine: MachineFacts, url: str | None) -> NodeFacts:
    """Ask a probe that has started.

    Raises:
        RayError: it answers no more.
    """
    ahead, error = _clock(probe)
    return NodeFacts(
        machine=machine,
        clock_ahead_s=ahead,
        clock_error_s=error,
        run_problem=_answer(probe.write_problem.remote(url)) if url else "",
        labels=node["Labels"],
    )


def _client(
    client: ClientId,
    others: Sequence[ClientId],
    probe: Any,
    data_url: str,
    theta: list[Any],
    transfer_timeout_s: float,
) -> ClientFacts:
    """Ask a client's probe one thing after another, until it gives no answer."""
    facts: dict[str, Any] = {"client": client}
    step = "placement"
    try:
        facts["node"] = ray.get(probe.address.remote(), timeout=PLACE_TIMEOUT_S)
        step = "storage"
        own = probe.read_problem.remote(data_url, client)
        facts["data_problem"] = ray.get(own, timeout=ANSWER_TIMEOUT_S)
        step = "privacy"
        reads = [probe.read_problem.remote(data_url, other) for other in others]
        problems = ray.get(reads, timeout=ANSWER_TIMEOUT_S)
        facts["readable_others"] = tuple(
            other for other, problem in zip(others, problems, strict=True) if not problem
        )
        step = "bandwidth"
        facts["down_s"] = ray.get(probe.receive.remote(theta), timeout=transfer_timeout_s)
        [back] = ray.get(probe.send.remote(theta), timeout=ANSWER_TIMEOUT_S)
        begun = time.monotonic()
        ray.get(back, timeout=transfer_timeout_s)
        facts["up_s"] = time.monotonic() - begun
    except RayError as error:
        facts |= {"failed": step, "problem": _why(error)}
    return ClientFacts.model_validate(facts)


def _answer(ref: Any) -> str:
    """Return what a probe says of storage; that it says nothing in time is an answer, too."""
    try:
        return str(ray.get(ref, timeout=ANSWER_TIMEOUT_S))
    except GetTimeoutError as error:
        return _why(error)


def _why(error: RayError) -> str:
    """Return the line of Ray's many that names the cause: the last."""
    if isinstance(error, GetTimeoutError):
        return "no answer in time"
    return str(error).strip().rpartition("\n")[-1].strip() or type(error).__name__


def _end(probe: Any) -> None:
    with suppress(RayError):
        ray.kill(probe)


def _probe_on(node_id: str) -> Any:
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return RemoteProbe.options(scheduling_strategy=there).remote()


def _clock(probe: Any) -> tuple[float, float]:
    """Return how far a node's clock is ahead of ours, and how well that is known."""
    before = time.time()
    there = ray.get(probe.clock.remote(), timeout=ANSWER_TIMEOUT_S)
    after = time.time()
    return there - (before + after) / 2, (after - before) / 2
