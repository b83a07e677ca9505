"""The whole examination: this machine, then the cluster, then what a recipe asks of it."""

import os
from collections.abc import Sequence

from ray._private.utils import get_cgroup_mem_stats

from fedkim_ray.config import Recipe
from fedkim_ray.doctor.facts import NodeFacts, SilentNode
from fedkim_ray.doctor.findings import Finding
from fedkim_ray.doctor.judgement import (
    judge_client,
    judge_machine,
    judge_needs,
    judge_nodes,
    judge_place,
    judge_run_folder,
    judge_silent,
)
from fedkim_ray.doctor.machine import machine_facts, taken_ports
from fedkim_ray.doctor.needs import Needs, needs_of
from fedkim_ray.doctor.places import INJECTION, Place, injection_place, places_of
from fedkim_ray.doctor.ray_probe import look_at_clients, look_at_nodes
from fedkim_ray.errors import EnvironmentProblemError, FedKimError
from fedkim_ray.injection.base_model import find_base
from fedkim_ray.pipeline import plan_run
from fedkim_ray.ray_connection import join_or_start, joins_a_cluster, kinds_to_come, most_resources
from fedkim_ray.ray_session import ray_session
from fedkim_ray.types import ClientId

PORTS = {6379: "Ray's GCS", 8265: "Ray's dashboard", 8000: "serving"}


def examine(recipe: Recipe | None, run_url: str | None) -> list[Finding]:
    """Return what was found; nothing is left behind.

    Args:
        recipe: A run to examine for; without one the machine, and the cluster if there is one.
        run_url: Folder that the run would write; a local one by its whole path.
    """
    findings = judge_machine(machine_facts(container=get_cgroup_mem_stats()))
    if not joins_a_cluster():
        findings.append(_ports())
    try:
        if recipe is not None:
            return findings + _for_recipe(recipe, run_url)
        return findings + (_cluster(run_url) if joins_a_cluster() else [])
    except EnvironmentProblemError as error:
        where = os.environ.get("RAY_ADDRESS") or "this machine"
        return [*findings, _refused("ray", where, error)]


def _cluster(run_url: str | None) -> list[Finding]:
    with join_or_start():
        return _of_nodes(*look_at_nodes(run_url), Place(who=INJECTION))


def _for_recipe(recipe: Recipe, run_url: str | None) -> list[Finding]:
    try:
        plan = plan_run(recipe)
        base = find_base(recipe.base.name, recipe.base.revision)
    except FedKimError as error:
        return [_refused("recipe", recipe.name, error)]
    clients = [*plan.tasks_by_client] if recipe.federation.clients_train else []
    needs = needs_of(recipe, plan.card, plan.trained, base, clients)
    with ray_session(recipe, len(plan.tasks_by_client)):
        nodes, silent = look_at_nodes(run_url)
        return [
            *_of_nodes(nodes, silent, injection_place(recipe)),
            *judge_needs(needs, nodes, recipe, most_resources().get("GPU", 0.0)),
            *_of_places(recipe, needs, clients, nodes),
        ]


def _of_nodes(
    nodes: Sequence[NodeFacts], silent: Sequence[SilentNode], injection: Place
) -> list[Finding]:
    machines = [node.machine for node in nodes] if joins_a_cluster() else []  # else it is this one
    return [
        *judge_silent(silent),
        *(finding for machine in machines for finding in judge_machine(machine)),
        *judge_nodes(nodes),
        *judge_run_folder(nodes, injection),
    ]


def _of_places(
    recipe: Recipe, needs: Needs, clients: Sequence[ClientId], nodes: Sequence[NodeFacts]
) -> list[Finding]:
    """Judge whether there is room, and look at the clients that have it."""
    to_come = kinds_to_come()
    found = [judge_place(place, nodes, to_come) for place in places_of(recipe, clients)]
    without_room = {finding.where for finding in found if finding.level != "ok"}
    placed = [client for client in clients if client not in without_room]
    pins = recipe.federation.client_resources, recipe.federation.client_selector
    sizes = needs.global_model, recipe.federation.client_timeout_s
    for facts in look_at_clients(placed, *pins, recipe.data.root, *sizes):
        found += judge_client(facts, recipe, needs)
    return found


def _refused(check: str, where: str, error: FedKimError) -> Finding:
    """Return what a run itself would be refused with."""
    return Finding(check=check, where=where, level="fail", came=error.came, remedy=error.remedy)


def _ports() -> Finding:
    taken = ", ".join(f"{port} ({PORTS[port]})" for port in taken_ports([*PORTS]))
    return Finding(
        check="ports",
        where="this machine",
        level="warn" if taken else "ok",
        came=f"taken: {taken}" if taken else f"free: {', '.join(map(str, PORTS))}",
        remedy="Export RAY_ADDRESS if that Ray is yours, or choose other ports." if taken else "",
    )
