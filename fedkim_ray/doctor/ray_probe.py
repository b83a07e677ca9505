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
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray._private.utils import get_cgroup_mem_stats
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedkim_ray.doctor.facts import ClientFacts, MachineFacts, NodeFacts, SilentNode
from fedkim_ray.doctor.machine import machine_facts
from fedkim_ray.doctor.shared_folder import clear_mark, find_mark, leave_mark
from fedkim_ray.storage import Folder, beneath
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
        here: Any = ray._private.worker._global_node
        return machine_facts(address, here.get_session_dir_path(), get_cgroup_mem_stats())

    def address(self) -> str:
        """Return the node's address."""
        return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]

    def asks_token(self) -> bool:
        """Return whether this node's processes, which all have one mode, refuse strangers."""
        return bool(is_token_auth_enabled())

    def clock(self) -> float:
        """Return this node's time."""
        return time.time()

    def leave_mark(self, url: str, name: str) -> str:
        """Leave a file in the folder at ``url`` for other nodes to find; say why that fails."""
        try:
            self._made = leave_mark(url, name)
        except Exception as error:  # any storage library's error
            return _named(error)
        return ""

    def find_mark(self, url: str, name: str) -> str:
        """Look for another node's file and write one beside it; say what is wrong."""
        try:
            return find_mark(url, name)
        except Exception as error:
            return _named(error)

    def clear_mark(self, url: str, name: str) -> None:
        """Remove what ``leave_mark`` left."""
        clear_mark(url, name, self._made)

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
            return _named(error)
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
    """Return the facts of living nodes, the driver's first, and which of the nodes give none.

    Args:
        run_url: Folder that a run would write; not tried where None.
    """
    here = ray.get_runtime_context().get_node_id()
    living = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    nodes = sorted(living, key=lambda node: bool(node["NodeID"] != here))
    probes = [_probe_on(node["NodeID"]) for node in nodes]
    try:
        seen = _seen(nodes, probes)
        heard = [k for k, each in enumerate(seen) if isinstance(each, NodeFacts)]
        if run_url and 0 in heard:
            problems = _run_problems(run_url, [probes[k] for k in heard])
            for k, problem in zip(heard, problems, strict=True):
                seen[k] = seen[k].model_copy(update={"run_problem": problem})
    finally:
        for probe in probes:
            _end(probe)
    return (
        [each for each in seen if isinstance(each, NodeFacts)],
        [each for each in seen if isinstance(each, SilentNode)],
    )


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


def _seen(
    nodes: Sequence[Mapping[str, Any]], probes: Sequence[Any]
) -> list[NodeFacts | SilentNode]:
    """Return what each node's probe says; all have the same time to start."""
    pairs = list(zip(nodes, probes, strict=True))
    machines = [probe.machine.remote(node["NodeManagerAddress"]) for node, probe in pairs]
    ray.wait(machines, num_returns=len(machines), timeout=START_TIMEOUT_S)
    seen: list[NodeFacts | SilentNode] = []
    for (node, probe), machine in zip(pairs, machines, strict=True):
        try:
            seen.append(_node(node, probe, ray.get(machine, timeout=0)))
        except RayError as error:
            seen.append(SilentNode(address=node["NodeManagerAddress"], problem=_why(error)))
    return seen


def _node(node: Mapping[str, Any], probe: Any, machine: MachineFacts) -> NodeFacts:
    """Ask a probe that has started.

    Raises:
        RayError: it answers no more.
    """
    ahead, error = _clock(probe)
    return NodeFacts(
        machine=machine,
        clock_ahead_s=ahead,
        clock_error_s=error,
        asks_token=ray.get(probe.asks_token.remote(), timeout=ANSWER_TIMEOUT_S),
        drives=node["NodeID"] == ray.get_runtime_context().get_node_id(),
        resources=node["Resources"],
        labels=node["Labels"],
    )


def _run_problems(url: str, probes: Sequence[Any]) -> list[str]:
    """Return why the run folder cannot be written, or is another folder, for each probe's node.

    The first is on the driver's: what it cannot write is not asked of the others.
    """
    name = f".doctor-{uuid.uuid4().hex}"
    first, *others = probes
    if problem := _answer(first.leave_mark.remote(url, name)):
        return [problem, *("" for _ in others)]
    looks = [other.find_mark.remote(url, name) for other in others]
    problems = [_answer(look) for look in looks]
    _answer(first.clear_mark.remote(url, name))
    return ["", *problems]


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
    """Return what a probe says of storage; that it says nothing is an answer, too."""
    try:
        return str(ray.get(ref, timeout=ANSWER_TIMEOUT_S))
    except RayError as error:
        return _why(error)


def _named(error: Exception) -> str:
    """Return the kind of an error, or of the file system's own that it tells of."""
    return type(beneath(error)).__name__


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
