"""A Ray to run in: the cluster that is there, or a local one for as long as it is needed."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout

import ray

from fedkim_ray.config import Recipe
from fedkim_ray.errors import EnvironmentProblemError
from fedkim_ray.federation.resources import missing_labels
from fedkim_ray.ray_connection import join_or_start, joins_a_cluster, most_resources

OBJECT_STORE_BYTES = 512 * 2**20
"""Of a local Ray; parameters of the light model are all that passes through it."""
REMEDIES = {
    "CPU": "Add nodes, or lower federation.cpus_per_client or injection.cpus_per_worker.",
    "GPU": "Add nodes with GPUs, lower injection.num_workers, or set injection.use_gpu=false.",
}


@contextmanager
def ray_session(recipe: Recipe, num_clients: int) -> Iterator[None]:
    """Connect to the cluster named by ``RAY_ADDRESS``, or start a local Ray and end it.

    Raises:
        EnvironmentProblemError: the cluster cannot be reached or lacks resources.
    """
    if ray.is_initialized():
        yield
        return
    needed = {"CPU": _cpus_needed(recipe, num_clients), "GPU": _gpus_needed(recipe)}
    if not joins_a_cluster():
        _require_no_labels(recipe)
    join_or_start(
        # Logical CPUs: a laptop's clients take turns on the cores that it has.
        num_cpus=max(os.cpu_count() or 1, needed["CPU"]),
        object_store_memory=OBJECT_STORE_BYTES,
        resources=_local_resources(recipe),
    )
    try:
        _require(needed)
        with redirect_stdout(sys.stderr):  # Ray's threads print; stdout is the command's answer
            yield
    finally:
        ray.shutdown()


def cluster_facts() -> tuple[dict[str, float], dict[str, float], list[dict[str, str]]]:
    """Return what the cluster at ``RAY_ADDRESS`` may have, what is free, and living nodes' labels.

    Raises:
        EnvironmentProblemError: it cannot be reached.
    """
    with join_or_start():
        total = most_resources()
        free = ray.available_resources()  # type: ignore[no-untyped-call]
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return total, free, [node["Labels"] for node in nodes if node["Alive"]]


def _cpus_needed(recipe: Recipe, num_clients: int) -> int:
    federation = recipe.federation
    if federation.execution == "pooled":
        num_clients = min(num_clients, federation.num_slots)
    per_client = federation.cpus_per_client * federation.workers_per_client
    clients = num_clients * (federation.execution != "local") * per_client
    injection = recipe.injection.num_workers * recipe.injection.cpus_per_worker
    return int(-(-(clients * federation.clients_train + injection) // 1))


def _gpus_needed(recipe: Recipe) -> int:
    return recipe.injection.num_workers * recipe.injection.use_gpu


def _local_resources(recipe: Recipe) -> dict[str, float]:
    """Give a local Ray every custom resource that pins a client somewhere."""
    resources: dict[str, float] = {}
    for wanted in recipe.federation.client_resources.values():
        for name, amount in wanted.items():
            resources[name] = resources.get(name, 0.0) + amount
    return resources


def _require_no_labels(recipe: Recipe) -> None:
    """Refuse at once what a local Ray, one node without labels, would wait for in vain."""
    of_clients = recipe.federation.client_selector if recipe.federation.clients_train else {}
    of_injection = {"injection workers": recipe.injection.worker_selector}
    lacking = missing_labels(of_clients | of_injection, [{}])
    if lacking:
        raise EnvironmentProblemError(
            f"{' '.join(lacking)} RAY_ADDRESS is not set.",
            "A Ray that is started for one run is one node without labels.",
            "Set RAY_ADDRESS to the cluster, or leave federation.client_selector and "
            "injection.worker_selector out.",
        )


def _require(needed: Mapping[str, int]) -> None:
    """Refuse at once what Ray would wait for in vain."""
    most = most_resources()
    for name, amount in needed.items():
        has = most.get(name, 0.0)
        if has < amount:
            raise EnvironmentProblemError(
                f"The Ray cluster has, or may grow to, {has:g} {name}s.",
                f"Clients and injection workers reserve {amount} at once.",
                REMEDIES[name],
            )
