"""What each client is told before the first round."""

from collections.abc import Mapping, Sequence

from pydantic import PositiveInt

from fedkim_ray.config import EncodersConfig, FederationConfig
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.errors import RecipeError
from fedkim_ray.storage import Folder
from fedkim_ray.types import ClientId, Frozen, Task


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


def make_setups(
    client_ids: Sequence[ClientId],
    data_url: str,
    spec: DataSpec,
    encoders: EncodersConfig,
    tasks_by_client: Mapping[ClientId, tuple[Task, ...]],
    all_tasks: Sequence[Task],
    federation: FederationConfig,
) -> list[ClientSetup]:
    """Return each client's setup; the light model has heads for yes/no tasks alone.

    Raises:
        RecipeError: the quorum is larger than the number of clients, or one has nothing to learn.
    """
    if federation.min_clients > len(client_ids):
        raise RecipeError(
            f"federation.min_clients is {federation.min_clients}.",
            f"{len(client_ids)} clients take part: {', '.join(client_ids) or 'none'}.",
            "Lower it, or let more clients take part with data.clients.",
        )
    heads = tuple(task for task in all_tasks if task.kind == "yes_no")
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
                data_url=Folder.at(data_url).url,
                spec=spec,
                encoders=encoders,
                tasks=own,
                all_tasks=heads,
                threads=federation.threads_per_client,
            )
        )
    return setups
