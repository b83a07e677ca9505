"""Krum: the change of the one client that lies nearest to its neighbours.

    score(k) = sum of ||delta_k - delta_l||^2 over the n - f - 2 clients l nearest to k
    theta    = theta + delta_k*,   k* = argmin_k score(k)

It holds against f faulty clients out of n >= 2f + 3. Here clients are compared, and one is chosen,
in each parameter group apart, among those that trained the group.

Source: Blanchard et al. 2017, section 4, https://papers.nips.cc/paper/6617
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkim_ray.federation.aggregation import ServerState
from fedkim_ray.federation.strategies.base import Base, stepped
from fedkim_ray.federation.strategies.robust import require_enough, trained_by
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import param_group


@dataclass(frozen=True, slots=True, kw_only=True)
class Krum(Base):
    """One client's change, chosen group by group."""

    num_faulty: int
    """f."""

    @property
    def needs_all(self) -> bool:
        """All updates are compared with one another."""
        return True

    @property
    def min_updates(self) -> int:
        """2f + 3."""
        return 2 * self.num_faulty + 3

    def apply(self, state: ServerState, updates: Iterable[ClientUpdate]) -> ServerState:
        """Return the state after this round.

        Raises:
            RoundFailedError: a group has fewer than 2f + 3 updates.
        """
        came = list(updates)
        require_enough(came, self.min_updates, "Krum")
        step: dict[str, Tensor] = {}
        for group in sorted({param_group(name) for name in state.params}):
            names = [name for name in state.params if param_group(name) == group]
            if own := trained_by(came, group):
                chosen = own[krum_choice(squared_distances(own, names), self.num_faulty)]
                step |= {name: chosen.delta[name].clone() for name in names}
        return stepped(state, step)


def squared_distances(updates: Sequence[ClientUpdate], names: Sequence[str]) -> Tensor:
    """Return ||delta_k - delta_l||^2 over the named parameters, (K, K) float64."""
    D_KK = torch.zeros(len(updates), len(updates), dtype=torch.float64)
    for name in names:
        deltas = [update.delta[name] for update in updates]
        for k, one in enumerate(deltas):
            for l in range(k):
                D_KK[k, l] += float((one - deltas[l]).square().sum(dtype=torch.float64))
    return D_KK + D_KK.T


def krum_choice(D_KK: Tensor, num_faulty: int) -> int:
    """Return k*, the client of the least score; of equals the first."""
    num_nearest = len(D_KK) - num_faulty - 2
    nearest = D_KK.sort(1).values[:, 1 : num_nearest + 1]  # without the distance to itself
    return int(nearest.sum(1).argmin())
