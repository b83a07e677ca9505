"""FedAvg: the server takes the clients' mean change.

    d_g     = sum_k (n_{k,g} / n_g) * (theta_k - theta)_g     mean change of parameter group g
    theta_g = theta_g + d_g

A group that nobody trained in this round has no mean change and keeps its parameters.

Source: McMahan et al. 2017, algorithm 1, https://arxiv.org/abs/1602.05629
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fedkim_ray.federation.aggregation import ServerState, rebased, weighted_mean_delta
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import Params


@dataclass(frozen=True, slots=True)
class FedAvg:
    """Weighted mean of the clients' parameters, group by group."""

    @property
    def proximal_mu(self) -> float:
        """Clients train on their loss alone."""
        return 0.0

    def init(self, params: Params) -> ServerState:
        """Return the state before round 0."""
        return ServerState(params=dict(params))

    def apply(self, state: ServerState, updates: Iterable[ClientUpdate]) -> ServerState:
        """Return the state after this round."""
        d = weighted_mean_delta(updates)
        theta = {
            name: value + d[name] if name in d else value for name, value in state.params.items()
        }
        return replace(state, params=theta, round_index=state.round_index + 1)

    def rebase(self, state: ServerState, params: Params) -> ServerState:
        """Return the state with injected parameters as its new base."""
        return rebased(state, params)
