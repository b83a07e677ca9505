"""What robust strategies share: every client's change of one parameter, side by side.

Clients count alike here, however many examples they have: a weight that a client states itself
would let one buy influence.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from fedkim_ray.errors import RoundFailedError
from fedkim_ray.federation.aggregation import ServerState
from fedkim_ray.federation.strategies.base import Base, stepped
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import Params, param_group

CHUNK = 1 << 20
"""Values that are compared at once, so that memory does not grow with a parameter's size."""


class Robust(Base, ABC):
    """A strategy that compares clients coordinate by coordinate."""

    @property
    def needs_all(self) -> bool:
        """All updates are compared with one another."""
        return True

    def apply(self, state: ServerState, updates: Iterable[ClientUpdate]) -> ServerState:
        """Return the state after this round; updates are read parameter by parameter.

        Raises:
            RoundFailedError: a group has fewer updates than ``min_updates``.
        """
        came = list(updates)
        require_enough(came, self.min_updates, type(self).__name__)
        return stepped(state, by_parameter(came, state.params, self.combine))

    @abstractmethod
    def combine(self, deltas_KN: Tensor) -> Tensor:
        """Return one change of N values from those of K clients, (N,)."""


def trained_by(updates: Sequence[ClientUpdate], group: str) -> list[ClientUpdate]:
    """Return the updates of clients that trained a parameter group."""
    return [update for update in updates if update.num_examples.get(group, 0)]


def by_parameter(
    updates: Sequence[ClientUpdate], params: Params, combine: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Combine the clients' changes of each parameter whose group somebody trained."""
    step = {}
    for name, value in params.items():
        deltas = [u.delta[name].reshape(-1) for u in trained_by(updates, param_group(name))]
        if deltas:
            parts = zip(*(torch.split(delta, CHUNK) for delta in deltas), strict=True)
            step[name] = torch.cat([combine(torch.stack(part)) for part in parts])
            step[name] = step[name].reshape(value.shape)
    return step


def require_enough(updates: Sequence[ClientUpdate], min_updates: int, name: str) -> None:
    """Refuse a round in which a trained group has too few updates.

    Raises:
        RoundFailedError: some group has fewer than ``min_updates``.
    """
    groups = sorted({g for update in updates for g, n in update.num_examples.items() if n})
    for group in groups:
        num_updates = len(trained_by(updates, group))
        if num_updates < min_updates:
            raise RoundFailedError(
                f"{name} has {num_updates} updates of {group!r}.",
                f"Its guarantee needs at least {min_updates}; the server state is unchanged.",
                "Sample more clients, lower the number of faulty ones assumed, or use fedavg.",
            )
