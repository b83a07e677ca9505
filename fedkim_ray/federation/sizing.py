"""What a round will move and hold, told before anything starts."""

from collections.abc import Sequence

from fedkim_ray.config import FederationConfig
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.federation.sampling import number_to_sample
from fedkim_ray.types import Frozen, Task, param_group

VALUE_BYTES = 4
MODEL_COPIES = 6
"""Of float32 parameters in a training worker: values, gradients, two Adam moments, theta_global,
and the update."""
WORKER_BYTES = 350 * 2**20
"""A worker with torch loaded and nothing in it, resident."""
CONTROL_BYTES = 600 * 2**20
"""The controller of a Ray Train run and the helpers beside it, resident."""
SERVER_COPIES = 3
"""Of the parameters in the driver while it aggregates: before, sum, and the packed ones."""


class ClientSize(Frozen):
    """One client's share of a round."""

    client_id: str
    tasks: dict[str, int]
    """Training examples by task."""
    groups: tuple[str, ...]
    """Parameter groups that it trains."""
    bytes_down: int
    bytes_up: int
    worker_bytes: int
    """Memory of its worker, without its data."""


class RoundSize(Frozen):
    """What a round of these clients moves and holds."""

    num_parameters: int
    clients: tuple[ClientSize, ...]
    num_down: int
    """Times that the parameters go out, to one client each."""
    num_up: int
    """Updates that come back."""
    server_bytes: int
    """Memory that aggregation takes in the driver beside the updates in hand."""
    control_bytes: int
    """Memory that each long-lived member takes beside its worker."""

    @property
    def bytes_down(self) -> int:
        """Parameters that go out, to train and to score."""
        return self.num_down * self.num_parameters * VALUE_BYTES

    @property
    def bytes_up(self) -> int:
        """Updates that come back; at most, where a round asks only some."""
        largest_first = sorted((client.bytes_up for client in self.clients), reverse=True)
        return sum(largest_first[: self.num_up])


def transfers(federation: FederationConfig, num_clients: int) -> tuple[int, int]:
    """Return how often the parameters go out in a round, and how many updates come back.

    Sampled clients train; all score, before and after the injection.
    """
    num_sampled = number_to_sample(federation, num_clients)
    return num_sampled + (2 * num_clients if federation.evaluate else 0), num_sampled


def control_bytes(federation: FederationConfig) -> int:
    """Return the memory that a member takes beside its workers."""
    return CONTROL_BYTES if federation.uses_ray_train else 0


def client_worker_bytes(model: LightModel) -> int:
    """Return the memory that a client's worker takes beside its data."""
    return WORKER_BYTES + MODEL_COPIES * VALUE_BYTES * sum(p.numel() for p in model.parameters())


def size_client(
    model: LightModel, client_id: str, tasks: Sequence[Task], examples: dict[str, int]
) -> ClientSize:
    """Return what one client sends and holds.

    Args:
        model: The light model.
        client_id: Who.
        tasks: Its yes/no tasks.
        examples: Training examples by task.
    """
    encoders = {f"encoders.{g}" for task in tasks for g in model.groups_of(task)}
    groups = encoders | {f"heads.{task.id}" for task in tasks}
    sizes = {name: p.numel() * VALUE_BYTES for name, p in model.named_parameters()}
    whole = sum(sizes.values())
    return ClientSize(
        client_id=client_id,
        tasks=examples,
        groups=tuple(sorted(groups)),
        bytes_down=whole,
        bytes_up=sum(size for name, size in sizes.items() if param_group(name) in groups),
        worker_bytes=client_worker_bytes(model),
    )


def size_round(
    model: LightModel, clients: Sequence[ClientSize], federation: FederationConfig
) -> RoundSize:
    """Return what a round of these clients moves and holds."""
    num_parameters = sum(p.numel() for p in model.parameters())
    num_down, num_up = transfers(federation, len(clients))
    return RoundSize(
        num_parameters=num_parameters,
        clients=tuple(clients),
        num_down=num_down,
        num_up=num_up,
        server_bytes=SERVER_COPIES * num_parameters * VALUE_BYTES,
        control_bytes=control_bytes(federation),
    )
