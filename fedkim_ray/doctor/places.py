"""What each process of a run reserves on its node, and how many of them a node has room for."""

from collections.abc import Mapping, Sequence

from pydantic import Field

from fedkim_ray.config import Recipe
from fedkim_ray.doctor.facts import NodeFacts
from fedkim_ray.federation.resources import fits
from fedkim_ray.types import ClientId, Frozen

INJECTION = "injection workers"


class Place(Frozen):
    """Workers that reserve the same, each on one node."""

    who: str
    """A client, ``a slot``, or ``injection workers``."""
    num_workers: int = 1
    resources: dict[str, float] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    """Conditions on the node's labels."""

    def __str__(self) -> str:
        amounts = [f"{name} {amount:g}" for name, amount in self.resources.items()]
        return ", ".join(amounts + [f"{name}={label}" for name, label in self.labels.items()])


def places_of(recipe: Recipe, clients: Sequence[ClientId]) -> list[Place]:
    """Return what a run of ``recipe`` reserves, injection last; a plain loop reserves nothing."""
    federation = recipe.federation
    cpus, num_workers = {"CPU": federation.cpus_per_client}, federation.workers_per_client
    places = []
    if federation.execution == "resident":
        places = [
            Place(
                who=client,
                num_workers=num_workers,
                resources=cpus | federation.client_resources.get(client, {}),
                labels=federation.client_selector.get(client, {}),
            )
            for client in clients
        ]
    elif federation.execution == "pooled" and clients:
        places = [Place(who="a slot", num_workers=num_workers, resources=cpus)]
    return [*places, injection_place(recipe)]


def injection_place(recipe: Recipe) -> Place:
    """Return what the injection reserves."""
    injection = recipe.injection
    return Place(
        who=INJECTION,
        num_workers=injection.num_workers,
        resources={"CPU": injection.cpus_per_worker, **({"GPU": 1.0} if injection.use_gpu else {})},
        labels=injection.worker_selector,
    )


def room(place: Place, node: NodeFacts) -> int:
    """Return how many of a place's workers a node holds that holds nothing else."""
    return _times(place, node.resources) if fits(place.labels, node.labels) else 0


def may_come(place: Place, kinds: Sequence[Mapping[str, float]]) -> bool:
    """Return whether a node of some kind has room; what labels it will bear is not known."""
    return any(_times(place, kind) for kind in kinds)


def _times(place: Place, resources: Mapping[str, float]) -> int:
    each = [
        int(resources.get(name, 0.0) / amount + 1e-9)
        for name, amount in place.resources.items()
        if amount
    ]
    return min([place.num_workers, *each])
