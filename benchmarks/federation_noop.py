"""Clients that train nothing, for measurements of what the federation itself costs."""

from collections.abc import Callable

import torch

from fedkim_ray.federation.exchange import OpenTrainer
from fedkim_ray.federation.plan import RoundPlan
from fedkim_ray.federation.setup import ClientSetup, SetupOf
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import Params

GROUP = "encoders.image"


def parameters(num_values: int) -> dict[str, torch.Tensor]:
    """Return float32 values in eight tensors of one parameter group."""
    return {f"{GROUP}.w{k}": torch.zeros(num_values // 8) for k in range(8)}


class NoTraining:
    """Answers every plan with the same update at once."""

    def __init__(self) -> None:
        self.delta: dict[str, torch.Tensor] = {}

    def train_round(self, plan: RoundPlan, theta_global: Params) -> ClientUpdate:
        """Return an update of ones."""
        if not self.delta:
            self.delta = {name: torch.ones_like(value) for name, value in theta_global.items()}
        return ClientUpdate(
            client_id=plan.client_id,
            round_index=plan.round_index,
            delta=self.delta,
            num_examples={GROUP: 1},
            metrics={"train/loss": 0.0},
        )

    def score_round(self, plan: RoundPlan, theta_global: Params) -> ClientUpdate:
        """Nothing is scored."""
        raise ValueError(plan.work)


def open_no_training(_: SetupOf) -> OpenTrainer:
    """Give one trainer to all clients of a process."""
    trainer = NoTraining()
    opened: Callable[[str], NoTraining] = lambda client_id: trainer  # noqa: E731
    return opened


def setups(num_clients: int) -> list[ClientSetup]:
    """Return setups of clients that have no data."""
    from fedkim_ray.config import EncodersConfig
    from fedkim_ray.data.demo.tiny import SPEC

    encoders = EncodersConfig()
    return [
        ClientSetup(
            client_id=f"c{k:05d}",
            data_url="none",
            spec=SPEC,
            encoders=encoders,
            tasks=(),
            all_tasks=(),
        )
        for k in range(num_clients)
    ]
