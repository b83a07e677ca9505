"""A light model of a few thousand parameters, and two clients of the tiny data root."""

from dataclasses import dataclass

import pytest
import torch

from fedkim_ray.config import (
    EncodersConfig,
    FederationConfig,
    ImageEncoderConfig,
    LocalTrainingConfig,
    SeriesEncoderConfig,
    SignalEncoderConfig,
)
from fedkim_ray.data.demo.tiny import CLIENTS, SPEC
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.federation.plan import RoundPlan
from fedkim_ray.federation.setup import ClientSetup, make_setups
from fedkim_ray.types import Params

LOCAL = LocalTrainingConfig(batch_size=16, lr=3e-3)


@dataclass(frozen=True)
class Tiny:
    """What tests need of a small federation."""

    root: str
    encoders: EncodersConfig
    federation: FederationConfig
    setups: dict[str, ClientSetup]
    params: Params
    """Fresh parameters of the light model."""

    def plan(self, client_id: str, round_index: int = 0, **changes: object) -> RoundPlan:
        """Return a plan of run seed 7; ``mu`` and fields of ``local`` may be changed."""
        mu = changes.pop("mu", 0.0)
        return RoundPlan(
            round_index=round_index,
            client_id=client_id,
            seed=7,
            local=LOCAL.model_copy(update=changes),
            proximal_mu=mu,
        )


def make_tiny(root: str, dropout: float) -> Tiny:
    encoders = EncodersConfig(
        image=ImageEncoderConfig(dim=16, depth=1, num_heads=2, patch_px=8),
        signal=SignalEncoderConfig(dim=16, channels=8, num_tokens=2),
        series=SeriesEncoderConfig(dim=16, num_heads=2),
        dropout=dropout,
    )
    federation = FederationConfig(local=LOCAL, cpus_per_client=0.5)
    tasks = {t.id: t for t in TASKS if t.role == "train"}
    own = {client: tuple(tasks[t] for t in ids) for client, ids in CLIENTS.items()}
    setups = make_setups(list(CLIENTS), root, SPEC, encoders, own, list(tasks.values()), federation)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        params = LightModel(encoders, SPEC, list(tasks.values())).params()
    return Tiny(root, encoders, federation, {s.client_id: s for s in setups}, params)


@pytest.fixture(scope="session")
def tiny(tiny_root: str) -> Tiny:
    """A small federation whose encoders use dropout, as real ones do."""
    return make_tiny(tiny_root, dropout=0.1)


@pytest.fixture(scope="session")
def tiny_without_dropout(tiny_root: str) -> Tiny:
    """The same without dropout, so that a test can compute what a client computes."""
    return make_tiny(tiny_root, dropout=0.0)
