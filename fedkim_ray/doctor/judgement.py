"""From facts to findings: pure, so that every verdict is tested without a cluster."""

from collections.abc import Mapping, Sequence

from fedkim_ray.config import Recipe
from fedkim_ray.doctor.facts import ClientFacts, MachineFacts, NodeFacts, SilentNode
from fedkim_ray.doctor.findings import Finding, Level, size
from fedkim_ray.doctor.needs import Needs
from fedkim_ray.doctor.places import INJECTION, Place, may_come, room

MIN_DISK_BYTES = 5 * 2**30
"""Ray spills objects and writes logs; below this a long run is at risk."""
MAX_SKEW_S = 2.0
"""Events of a run are ordered by clocks; TLS and object stores' signatures fail at minutes."""
TRANSFER_SHARE = 0.25
"""Share of a round's deadline that may go into moving parameters."""

STEPS = ("placement", "storage", "privacy", "bandwidth")
"""A look at a client, in order."""


def judge_machine(facts: MachineFacts) -> list[Finding]:
    """Judge one machine on its own."""
    wrong = facts.outside_range
    low = facts.disk_free_bytes < MIN_DISK_BYTES
    return [
        _finding(
            "versions",
            facts.address,
            "fail" if wrong else "ok",
            "; ".join(wrong)
            if wrong
            else ", ".join(f"{n} {facts.versions[n]}" for n in ("ray", "torch", "deepspeed")),
            "Install with `pip install -c constraints.txt`.",
        ),
        _finding(
            "disk",
            facts.address,
            "warn" if low else "ok",
            f"{size(facts.disk_free_bytes)} free for Ray's spill and logs",
            f"Free at least {size(MIN_DISK_BYTES)}, or start Ray with another --temp-dir.",
        ),
        _finding(
            "memory",
            facts.address,
            "ok",
            f"{size(facts.memory_free_bytes)} free of {size(facts.memory_total_bytes)}",
        ),
        _finding(
            "gpu",
            facts.address,
            "ok",
            f"{facts.num_gpus} GPUs, NCCL {facts.nccl}" if facts.num_gpus else "none",
        ),
        _finding(
            "compiler",
            facts.address,
            "ok",
            facts.compiler or "none: needed for injection.offload alone",
        ),
    ]


def judge_silent(nodes: Sequence[SilentNode]) -> list[Finding]:
    """Judge the nodes of which nothing is known."""
    remedy = (
        "Install the project there, in the version of all nodes, start it with the RAY_AUTH_MODE "
        "that this shell has, or take the node away."
    )
    return [
        _finding(
            "node",
            node.address,
            "fail",
            f"no process of the project starts there: {node.problem}",
            remedy,
        )
        for node in nodes
    ]


def judge_nodes(nodes: Sequence[NodeFacts]) -> list[Finding]:
    """Judge the nodes against one another, against the driver's clock, and against strangers."""
    if not nodes:
        return []
    first = nodes[0].machine
    return [_auth(nodes)] + [
        f for n in nodes for f in (_same_versions(n.machine, first), _clock(n))
    ]


def _same_versions(machine: MachineFacts, first: MachineFacts) -> Finding:
    differ = [
        f"{name} {came} (not {first.versions[name]})"
        for name, came in machine.versions.items()
        if _release(came) != _release(first.versions[name])
    ]
    return _finding(
        "same versions",
        machine.address,
        "fail" if differ else "ok",
        ", ".join(differ) or "as on the first node",
        "Use one image, or one constraints.txt, on all nodes.",
    )


def _clock(node: NodeFacts) -> Finding:
    skew_s = abs(node.clock_ahead_s) - node.clock_error_s
    return _finding(
        "clock",
        node.machine.address,
        "warn" if skew_s > MAX_SKEW_S else "ok",
        f"{node.clock_ahead_s:+.3f} s, known to {node.clock_error_s:.3f} s",
        "Run chrony or systemd-timesyncd on the node.",
    )


def judge_run_folder(nodes: Sequence[NodeFacts], injection: Place) -> list[Finding]:
    """Judge who cannot write the run folder: the driver must, and an injection worker."""
    takers = [node for node in nodes if room(injection, node)]
    stopped = all(node.run_problem for node in takers)
    return [
        _finding(
            "run folder",
            node.machine.address,
            "fail" if node.drives or (stopped and node in takers) else "warn",
            f"cannot be written from there ({node.run_problem})",
            "Name a folder in --out that the driver and the nodes of injection workers share, and "
            "let both write it; nodes of clients need not.",
        )
        for node in nodes
        if node.run_problem
    ]


def _auth(nodes: Sequence[NodeFacts]) -> Finding:
    """Judge whether strangers could run code on the cluster."""
    exposed = sorted({node.machine.address for node in nodes if not node.asks_token})
    return _finding(
        "authentication",
        "cluster",
        "warn" if exposed and len(nodes) > 1 else "ok",
        f"off at {', '.join(exposed)}: whoever reaches a node's ports can run code there"
        if exposed
        else "every node asks for the token",
        "Start every node with RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN.",
    )


def judge_place(
    place: Place, nodes: Sequence[NodeFacts], to_come: Sequence[Mapping[str, float]]
) -> Finding:
    """Judge whether nodes have all that each worker reserves, each of them on one node.

    Args:
        place: What the workers reserve.
        nodes: Those that are there.
        to_come: Resources of a node of each kind that an autoscaler may add.
    """
    has = sum(room(place, node) for node in nodes)
    enough = has >= place.num_workers
    missing: Level = "warn" if may_come(place, to_come) else "fail"
    own = (
        "injection.cpus_per_worker or num_workers, or correct its worker_selector."
        if place.who == INJECTION
        else "federation.cpus_per_client, or correct its client_resources or client_selector."
    )
    return _finding(
        "placement",
        place.who,
        "ok" if enough else missing,
        f"there is room ({place})"
        if enough
        else f"nodes have room for {has} of {place.num_workers}, each on one node: {place}",
        f"Start such a node (--num-cpus, --resources, --labels) or let the autoscaler, lower {own}",
    )


def judge_client(facts: ClientFacts, recipe: Recipe, needs: Needs) -> list[Finding]:
    """Judge one client's place, data and line, up to the step at which the look ended."""
    who = f"{facts.client} at {facts.node or '?'}"
    findings = [
        _storage(facts, who),
        _privacy(facts, who, bool(recipe.federation.pins(facts.client))),
        _deadline(facts, who, recipe.federation.client_timeout_s, needs.global_model),
    ]
    if facts.failed:
        seen = STEPS[: STEPS.index(facts.failed)]
        findings = [finding for finding in findings if finding.check in seen]
        findings.append(_ended(facts, who, recipe))
    return findings


def _ended(facts: ClientFacts, who: str, recipe: Recipe) -> Finding:
    """Judge the step at which the look at a client ended."""
    came, remedy = {
        "placement": (
            f"no node takes it ({recipe.federation.pins(facts.client)})",
            "Start its node with these --resources or --labels, correct federation's "
            "client_resources or client_selector, or wait for a run that holds them.",
        ),
        "storage": ("its data were not opened", "Look whether that node's mount of them hangs."),
        "privacy": ("others' data were not tried", "Look whether a mount of that node hangs."),
        "bandwidth": (
            "a global model does not get there and back",
            "Open Ray's ports between that node and the driver's, or raise "
            "federation.client_timeout_s.",
        ),
    }[facts.failed]
    level: Level = "warn" if facts.failed == "privacy" else "fail"
    return _finding(facts.failed, who, level, f"{came}: {facts.problem}", remedy)


def _storage(facts: ClientFacts, who: str) -> Finding:
    problem = facts.data_problem
    return _finding(
        "storage",
        who,
        "fail" if problem else "ok",
        f"its data cannot be read ({problem})" if problem else "its data can be read",
        "Mount them on that node, readable by the user that Ray runs as.",
    )


def _privacy(facts: ClientFacts, who: str, pinned: bool) -> Finding:
    others = ", ".join(facts.readable_others)
    return _finding(
        "privacy",
        who,
        "warn" if others else "ok",
        f"the data of {others} can be read there too" if others else "no other client's data",
        "Let each node's own user alone read its client's folder."
        if pinned
        else "Pin clients to nodes of their own with federation.client_resources.",
    )


def judge_needs(
    needs: Needs, nodes: Sequence[NodeFacts], recipe: Recipe, gpus: float
) -> list[Finding]:
    """Judge memory and GPUs against what the run asks for.

    Args:
        needs: What it asks for.
        nodes: Those that are there.
        recipe: The run.
        gpus: What the cluster has or may grow to, as the run itself will count them.
    """
    injection = recipe.injection
    largest_first = sorted(needs.client_memory.values(), reverse=True)
    pooled = recipe.federation.execution == "pooled"
    at_once = largest_first[: recipe.federation.num_slots] if pooled else largest_first
    wanted = sum(at_once) + injection.num_workers * needs.injection_memory
    # Nodes of one address share a host's memory.
    free = {node.machine.address: node.machine.memory_free_bytes for node in nodes}
    has, largest = sum(free.values()), max(free.values(), default=0)
    short_of_gpus = injection.use_gpu and gpus < injection.num_workers
    return [
        _finding(
            "memory for the run",
            "cluster",
            "warn" if wanted > has or needs.injection_memory > largest else "ok",
            f"about {size(wanted)} of {size(has)}: {size(needs.injection_memory)} an injection "
            f"worker, {size(max(needs.client_memory.values(), default=0))} the largest client",
            "Add nodes, leave clients out with data.clients, or shard with injection.zero_stage.",
        ),
        _finding(
            "gpus for the run",
            "cluster",
            "fail" if short_of_gpus else "ok",
            f"{gpus:g} there or to come, {injection.num_workers * injection.use_gpu} wanted",
            "Add GPU nodes, or set injection.use_gpu=false.",
        ),
        _finding(
            "bytes",
            "cluster",
            "ok",
            f"{size(needs.global_model)} a global model, {size(needs.round_traffic)} a round both "
            f"ways, {size(needs.run_disk)} the run folder",
        ),
    ]


def _deadline(facts: ClientFacts, who: str, timeout_s: float, model_bytes: int) -> Finding:
    """Judge the line to a client by the round deadline that it leaves for training."""
    moved_s = facts.down_s + facts.up_s
    level: Level = "ok"
    if moved_s > timeout_s:
        level = "fail"
    elif moved_s > TRANSFER_SHARE * timeout_s:
        level = "warn"
    rate = 2 * model_bytes / max(moved_s, 1e-9)
    return _finding(
        "bandwidth",
        who,
        level,
        f"{size(model_bytes)} down in {facts.down_s:.2f} s, up in {facts.up_s:.2f} s "
        f"({size(rate)}/s): {timeout_s - moved_s:.0f} s of client_timeout_s are left for training",
        f"Raise federation.client_timeout_s to {moved_s / TRANSFER_SHARE:.0f} or more.",
    )


def _release(version: str) -> str:
    """Return a version without its build: sites may have torch for CPUs, injection for CUDA."""
    return version.partition("+")[0]


def _finding(check: str, where: str, level: Level, came: str, remedy: str = "") -> Finding:
    return Finding(
        check=check, where=where, level=level, came=came, remedy="" if level == "ok" else remedy
    )
