"""FedYogi: FedAdam whose second moment moves by a bounded amount.

    v = v - (1 - beta2) * d^2 * sign(v - d^2)

All else is FedAdam's: where changes become rare, v falls more slowly than Adam's.

Source: Reddi et al. 2021, algorithm 2, https://arxiv.org/abs/2003.00295
"""

from dataclasses import dataclass

from torch import Tensor

from fedkim_ray.federation.strategies.fedadam import FedAdam


@dataclass(frozen=True, slots=True, kw_only=True)
class FedYogi(FedAdam):
    """Yogi on the server."""

    def second_moment(self, v: Tensor, d_squared: Tensor) -> Tensor:
        """Return the new v."""
        return v - (1 - self.beta2) * d_squared * (v - d_squared).sign()
