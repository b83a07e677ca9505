"""The whole examination: this machine, then the cluster, then what a recipe asks of it."""

import os
import socket
from contextlib import suppress

import ray

from fedkim_ray.config import Recipe
from fedkim_ray.doctor.findings import Finding
from fedkim_ray.doctor.judgement import (
    judge_auth,
    judge_client,
    judge_machine,
    judge_needs,
    judge_nodes,
)
from fedkim_ray.doctor.machine import machine_facts, taken_ports
from fedkim_ray.doctor.needs import needs_of
from fedkim_ray.doctor.ray_probe import look_at_clients, look_at_nodes
from fedkim_ray.errors import FedKimError
from fedkim_ray.injection.base_model import find_base
from fedkim_ray.pipeline import RunPlan, plan_run
from fedkim_ray.ray_connection import most_resources
from fedkim_ray.ray_session import ray_session

CONNECT_TIMEOUT_S = 5.0
PORTS = {6379: "Ray's GCS", 8265: "Ray's dashboard", 8000: "serving"}


def examine(recipe: Recipe | None, run_url: str | None, token: bool) -> list[Finding]:
    """Return what was found; nothing is left behind.

    Args:
        recipe: A run to examine for; without one the machine, and the cluster if there is one.
        run_url: Folder that the run would write.
        token: Whether this user's requests to Ray carry a token.
    """
    findings = judge_machine(machine_facts())
    on_cluster = bool(os.environ.get("RAY_ADDRESS"))
    if on_cluster and not _answers(os.environ["RAY_ADDRESS"]):
        return [*findings, _unreachable("nothing answers there")]  # Ray would try for minutes
    if not on_cluster:
        findings.append(_ports())
    if recipe is None:
        return findings + (_cluster(run_url, token) if on_cluster else [])
    try:
        plan = plan_run(recipe)
        with ray_session(recipe, len(plan.tasks_by_client)):
            return findings + _for_recipe(recipe, plan, run_url, token)
    except FedKimError as error:  # what the run itself would be refused with
        problem = Finding(
            check="recipe", where=recipe.name, level="fail", came=error.came, remedy=error.remedy
        )
        return [*findings, problem]


def _cluster(run_url: str | None, token: bool) -> list[Finding]:
    try:
        ray.init(log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        return [_unreachable(str(error).strip().splitlines()[0])]
    try:
        nodes = look_at_nodes(run_url)
    finally:
        with suppress(Exception):
            ray.shutdown()
    machines = [f for node in nodes for f in judge_machine(node.machine)]
    return [*machines, judge_auth(token, len(nodes)), *judge_nodes(nodes)]


def _for_recipe(recipe: Recipe, plan: RunPlan, run_url: str | None, token: bool) -> list[Finding]:
    clients = [*plan.tasks_by_client] if recipe.federation.clients_train else []
    base = find_base(recipe.base.name, recipe.base.revision)
    needs = needs_of(recipe, plan.card, plan.trained, base, clients)
    nodes = look_at_nodes(run_url)
    found = [] if len(nodes) == 1 else [f for n in nodes for f in judge_machine(n.machine)]
    found += [
        judge_auth(token, len(nodes)),
        *judge_nodes(nodes),
        *judge_needs(needs, nodes, recipe, most_resources().get("GPU", 0.0)),
    ]
    pins = recipe.federation.client_resources, recipe.federation.client_selector
    for facts in look_at_clients(clients, *pins, recipe.data.root, needs.global_model):
        found += judge_client(facts, recipe, needs)
    return found


def _ports() -> Finding:
    taken = ", ".join(f"{port} ({PORTS[port]})" for port in taken_ports([*PORTS]))
    return Finding(
        check="ports",
        where="this machine",
        level="warn" if taken else "ok",
        came=f"taken: {taken}" if taken else f"free: {', '.join(map(str, PORTS))}",
        remedy="Export RAY_ADDRESS if that Ray is yours, or choose other ports." if taken else "",
    )


def _answers(address: str) -> bool:
    """Return whether something listens at HOST:PORT; other forms of address are Ray's to judge."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return True
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _unreachable(problem: str) -> Finding:
    return Finding(
        check="ray",
        where=os.environ["RAY_ADDRESS"],
        level="fail",
        came=problem,
        remedy="Check RAY_ADDRESS, and that RAY_AUTH_TOKEN is the cluster's.",
    )
