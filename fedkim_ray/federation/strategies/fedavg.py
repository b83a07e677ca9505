"""FedAvg: the server takes the clients' mean change.

    d_g     = sum_k (n_{k,g} / n_g) * (theta_k - theta)_g     mean change of parameter group g
    theta_g = theta_g + d_g

A group that nobody trained in this round has no mean change and keeps its parameters.

Source: McMahan et al. 2017, algorithm 1, https://arxiv.org/abs/1602.05629
"""

from collections.abc import Iterable
from dataclasses import dataclass

from fedkim_ray.federation.aggregation import ServerState, weighted_mean_delta
from fedkim_ray.federation.strategies.base import Base, stepped
from fedkim_ray.federation.update import ClientUpdate


@dataclass(frozen=True, slots=True)
class FedAvg(Base):
    """Weighted mean of the clients' parameters, group by group."""

    def apply(self, state: ServerState, updates: Iterable[ClientUpdate]) -> ServerState:
        """Return the state after this round."""
        return stepped(state, weighted_mean_delta(updates))
