"""FedAdam: the server takes an Adam step along the clients' mean change.

    d = sum_k (n_k / n) * (theta_k - theta)     mean change
    m = beta1 * m + (1 - beta1) * d             m starts at 0
    v = beta2 * v + (1 - beta2) * d^2           v starts at tau^2
    theta = theta + eta * m / (sqrt(v) + tau)

No bias correction, as in the paper. A group that nobody trained keeps theta, m and v.

Source: Reddi et al. 2021, algorithm 2, https://arxiv.org/abs/2003.00295
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkim_ray.federation.aggregation import ServerState, weighted_mean_delta, zeros_like
from fedkim_ray.federation.strategies.base import Base, stepped
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import Params

FIRST, SECOND = "m", "v"


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdam(Base):
    """Adam on the server; tau bounds how far a parameter of small changes may go."""

    eta: float
    beta1: float
    beta2: float
    tau: float

    def init(self, params: Params) -> ServerState:
        """Return the state before round 0: m = 0, v = tau^2."""
        v = {name: torch.full_like(value, self.tau**2) for name, value in params.items()}
        return ServerState(params=dict(params), slots={FIRST: zeros_like(params), SECOND: v})

    def apply(self, state: ServerState, updates: Iterable[ClientUpdate]) -> ServerState:
        """Return the state after this round."""
        d = weighted_mean_delta(updates)
        m = {n: self.beta1 * state.slots[FIRST][n] + (1 - self.beta1) * d[n] for n in d}
        v = {n: self.second_moment(state.slots[SECOND][n], d[n].square()) for n in d}
        step = {n: self.eta * m[n] / (v[n].sqrt() + self.tau) for n in d}
        return stepped(state, step, m=m, v=v)

    def second_moment(self, v: Tensor, d_squared: Tensor) -> Tensor:
        """Return the new v."""
        return self.beta2 * v + (1 - self.beta2) * d_squared
