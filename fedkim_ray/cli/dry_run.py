"""``fedkim run --dry-run``: who trains what where, what a round moves, and what is missing."""

import json
import os
from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from fedkim_ray.config import Recipe

MB = 2**20


def dry_run(recipe: Recipe, as_json: bool) -> None:
    """Check a recipe against its data and the cluster, and print what a run would do."""
    from fedkim_ray.encoders.bundle import LightModel
    from fedkim_ray.federation.sizing import size_client, size_round
    from fedkim_ray.pipeline import plan_run

    plan = plan_run(recipe)
    light = LightModel(recipe.encoders, plan.card.spec, plan.trained)
    sizes = [
        size_client(
            light,
            client,
            [task for task in tasks if task.kind == "yes_no"],
            {t.id: plan.card.num_examples(f"clients/{client}/{t.id}/train/") for t in tasks},
        )
        for client, tasks in plan.tasks_by_client.items()
    ]
    training = sizes if recipe.federation.clients_train else []
    size = size_round(light, training, recipe.federation)
    facts = size.model_dump(mode="json") | {
        "execution": recipe.federation.execution,
        "bytes_down": size.bytes_down,
        "bytes_up": size.bytes_up,
        "where": {client: _where(recipe, client) for client in plan.tasks_by_client},
        "missing": missing(recipe, [*plan.tasks_by_client]),
    }
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        _show(recipe, facts)


def missing(recipe: Recipe, clients: list[str]) -> list[str]:
    """Return a sentence for each thing that the cluster, or this machine, lacks."""
    from fedkim_ray.federation.resources import missing_labels, missing_resources

    demands = demands_of(recipe, clients)
    if not os.environ.get("RAY_ADDRESS"):
        return _missing_here(demands)
    from fedkim_ray.ray_session import cluster_facts

    total, free, labels = cluster_facts()
    said = missing_resources(demands, total, free)
    short = [said] if said.startswith("All clients together") else []
    of_injection = {"injection workers": recipe.injection.worker_selector}
    return short + missing_labels(recipe.federation.client_selector | of_injection, labels)


def _missing_here(demands: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A local Ray's CPUs are logical, and workers take turns on the real ones; not so its GPUs."""
    import torch

    cpus, gpus = (sum(d.get(name, 0.0) for d in demands.values()) for name in ("CPU", "GPU"))
    has_cpus, has_gpus = os.cpu_count() or 1, torch.cuda.device_count()
    said = []
    if cpus > has_cpus:
        said += [f"Workers reserve {cpus:g} CPUs and this machine has {has_cpus}: they take turns."]
    if gpus > has_gpus:
        said += [f"Workers reserve {gpus:g} GPUs and this machine has {has_gpus}."]
    return said


def demands_of(recipe: Recipe, clients: list[str]) -> dict[str, Mapping[str, float]]:
    """Return what each worker that lives at the same time asks for."""
    federation, demands = recipe.federation, dict[str, Mapping[str, float]]()
    if federation.clients_train and federation.execution == "pooled":
        clients = [f"slot-{k}" for k in range(min(federation.num_slots, len(clients)))]
    if federation.clients_train and federation.execution != "local":
        for client in clients:
            own = {
                "CPU": federation.cpus_per_client,
                **federation.client_resources.get(client, {}),
            }
            workers = federation.workers_per_client
            demands[client] = {name: amount * workers for name, amount in own.items()}
    gpu = {"GPU": 1.0} if recipe.injection.use_gpu else {}
    for worker in range(recipe.injection.num_workers):
        demands[f"injection-{worker}"] = {"CPU": recipe.injection.cpus_per_worker, **gpu}
    return demands


def _where(recipe: Recipe, client: str) -> str:
    federation = recipe.federation
    if federation.execution == "local":
        return "this process"
    if federation.execution == "pooled":
        return f"any of {federation.num_slots} slots"
    pins = federation.pins(client)
    return ", ".join(f"{name}={value}" for name, value in pins.items()) or "any node"


def _show(recipe: Recipe, facts: dict[str, Any]) -> None:
    console = Console()
    table = Table(title=f"{recipe.name}: {facts['num_parameters']:,} parameters")
    for column in ("client", "where", "training examples", "MB down", "MB up", "worker MB"):
        table.add_column(column, justify="left" if column in ("client", "where") else "right")
    for client in facts["clients"]:
        examples = ", ".join(f"{task} {n}" for task, n in client["tasks"].items())
        numbers = [client[key] / MB for key in ("bytes_down", "bytes_up", "worker_bytes")]
        table.add_row(
            client["client_id"],
            facts["where"][client["client_id"]],
            examples,
            *(f"{number:.2f}" for number in numbers),
        )
    console.print(table)
    console.print(
        f"A round moves {facts['bytes_down'] / MB:.2f} MB down and {facts['bytes_up'] / MB:.2f} MB "
        f"up; the driver holds {facts['server_bytes'] / MB:.2f} MB to aggregate."
    )
    if facts["control_bytes"]:
        beside = f"{facts['control_bytes'] / MB:.0f} MB"
        console.print(f"Each long-lived Ray Train run holds {beside} beside its worker.")
    for sentence in facts["missing"] or ["Nothing is missing."]:
        console.print(sentence)
