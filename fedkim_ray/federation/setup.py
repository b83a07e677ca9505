"""What each client is told before the first round."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from pydantic import PositiveInt
from torch import nn

from fedkim_ray.config import EncodersConfig, FederationConfig
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.errors import RecipeError
from fedkim_ray.federation.exchange import OpenTrainer
from fedkim_ray.federation.sampling import number_to_sample
from fedkim_ray.federation.strategies import build_strategy
from fedkim_ray.federation.update import some
from fedkim_ray.storage import Folder
from fedkim_ray.types import ClientId, Frozen, Task, TaskId


class ClientSetup(Frozen):
    """All that a client needs to start; its data stay where the URL leads."""

    client_id: ClientId
    data_url: str
    """The data root; opened by the client's own process alone."""
    spec: DataSpec
    encoders: EncodersConfig
    tasks: tuple[Task, ...]
    """Yes/no tasks that this client has data of."""
    all_tasks: tuple[Task, ...]
    """Tasks that the light model has a head for, the same for all clients."""
    threads: PositiveInt = 1
    run_id: str = ""
    """Half-trained rounds of another run are none of this one's."""


SetupOf: TypeAlias = Callable[[ClientId], ClientSetup]
Opener: TypeAlias = Callable[[SetupOf], OpenTrainer]
"""Makes what gives a process its clients; ``client.OpenClients`` is the one."""


class PoolSetup(Frozen):
    """What one process needs to be any of several clients of a run."""

    shared: ClientSetup
    """Any of them; they differ in name and tasks alone."""
    tasks: dict[ClientId, tuple[TaskId, ...]]

    @classmethod
    def join(cls, setups: Sequence[ClientSetup]) -> "PoolSetup":
        """Return the setups of one run in one."""
        return cls(
            shared=setups[0], tasks={s.client_id: tuple(t.id for t in s.tasks) for s in setups}
        )

    def of(self, client_id: ClientId) -> ClientSetup:
        """Return one client's own."""
        ids = self.tasks[client_id]
        own = tuple(task for task in self.shared.all_tasks if task.id in ids)
        return self.shared.model_copy(update={"client_id": client_id, "tasks": own})


def require_no_running_statistics(model: nn.Module) -> None:
    """Refuse a model that keeps statistics of its batches.

    Raises:
        RecipeError: a layer does; its statistics are no parameters, and their mean over clients
            with different data describes none of them.
    """
    for name, layer in model.named_modules():
        if getattr(layer, "track_running_stats", False):
            raise RecipeError(
                f"Layer {name!r} ({type(layer).__name__}) keeps running statistics.",
                "A federated model normalises each example by itself.",
                "Use GroupNorm or LayerNorm there.",
            )


def make_setups(
    client_ids: Sequence[ClientId],
    data_url: str,
    spec: DataSpec,
    encoders: EncodersConfig,
    tasks_by_client: Mapping[ClientId, tuple[Task, ...]],
    all_tasks: Sequence[Task],
    federation: FederationConfig,
    run_id: str = "",
) -> list[ClientSetup]:
    """Return each client's setup; the light model has heads for yes/no tasks alone.

    Raises:
        RecipeError: a round cannot have as many clients as it needs, or one has nothing to learn.
    """
    _require_enough(client_ids, federation)
    heads = tuple(task for task in all_tasks if task.kind == "yes_no")
    root_url = Folder.at(data_url).url
    setups = []
    for client_id in sorted(client_ids):
        own = tuple(t for t in tasks_by_client.get(client_id, ()) if t in heads)
        if not own:
            raise RecipeError(
                f"Client {client_id!r} has no yes/no task to train.",
                f"The trained tasks are {', '.join(t.id for t in heads) or 'none'}.",
                "Leave the client out with data.clients, or add its task with data.tasks.",
            )
        setups.append(
            ClientSetup(
                client_id=client_id,
                data_url=root_url,
                spec=spec,
                encoders=encoders,
                tasks=own,
                all_tasks=heads,
                threads=federation.threads_per_client,
                run_id=run_id,
            )
        )
    return setups


def _require_enough(client_ids: Sequence[ClientId], federation: FederationConfig) -> None:
    """Hold the quorum, and the strategy's own, against the clients that a round asks."""
    sampled = number_to_sample(federation, len(client_ids))
    for what, needed in (
        ("federation.min_clients is", federation.min_clients),
        ("federation.min_clients_per_modality is", federation.min_clients_per_modality),
        (
            f"federation.strategy {federation.strategy.name} needs",
            build_strategy(federation.strategy).min_updates,
        ),
    ):
        if needed > sampled:
            raise RecipeError(
                f"{what} {needed}.",
                f"{len(client_ids)} clients take part: {some(client_ids)}; a round asks {sampled}.",
                "Lower it, let more clients take part with data.clients, or sample more.",
            )
