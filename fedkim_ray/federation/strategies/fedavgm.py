"""FedAvgM: FedAvg whose server keeps momentum.

    d = sum_k (n_k / n) * (theta_k - theta)     mean change
    m = beta * m + d                            m starts at 0
    theta = theta + eta * m

With beta = 0 and eta = 1 this is FedAvg. A group that nobody trained keeps theta and m.

Source: Hsu, Qi, Brown 2019, https://arxiv.org/abs/1909.06335
"""

from collections.abc import Iterable
from dataclasses import dataclass

from fedkim_ray.federation.aggregation import ServerState, weighted_mean_delta, zeros_like
from fedkim_ray.federation.strategies.base import Base, stepped
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import Params

MOMENTUM = "momentum"


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvgM(Base):
    """Mean client change, smoothed by momentum on the server."""

    eta: float
    beta: float

    def init(self, params: Params) -> ServerState:
        """Return the state before round 0, without momentum."""
        return ServerState(params=dict(params), slots={MOMENTUM: zeros_like(params)})

    def apply(self, state: ServerState, updates: Iterable[ClientUpdate]) -> ServerState:
        """Return the state after this round."""
        d = weighted_mean_delta(updates)
        m = {name: d[name].add_(state.slots[MOMENTUM][name], alpha=self.beta) for name in d}
        return stepped(state, {name: self.eta * m[name] for name in m}, momentum=m)
