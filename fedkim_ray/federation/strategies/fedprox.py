"""FedProx: FedAvg whose clients are held near the global parameters.

    client:  L_prox(theta) = L(theta) + (mu / 2) * ||theta - theta_global||^2
    server:  as FedAvg

Source: Li et al. 2020, algorithm 2, https://arxiv.org/abs/1812.06127
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkim_ray.federation.strategies.fedavg import FedAvg


@dataclass(frozen=True, slots=True)
class FedProx(FedAvg):
    """FedAvg on the server; the difference is in the clients' loss."""

    mu: float = 1e-6

    @property
    def proximal_mu(self) -> float:
        """Clients add the proximal term with this weight."""
        return self.mu


def proximal_term(theta: Iterable[Tensor], theta_global: Iterable[Tensor], mu: float) -> Tensor:
    """Return (mu / 2) * ||theta - theta_global||^2, a scalar; only theta gets a gradient."""
    squares = [(w - w_0).square().sum() for w, w_0 in zip(theta, theta_global, strict=True)]
    return 0.5 * mu * torch.stack(squares).sum()
