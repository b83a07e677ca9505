"""FedAvg, FedAvgM and the median against Flower's implementations, to 1e-6.

Flower lives in an environment of its own: `benchmarks/peers/flower_env.sh DIR` makes it and says
what to export.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkim_ray.federation.aggregation import Strategy
from fedkim_ray.federation.strategies.fedavg import FedAvg
from fedkim_ray.federation.strategies.fedavgm import FedAvgM
from fedkim_ray.federation.strategies.median import Median
from fedkim_ray.federation.update import ClientUpdate

PYTHON = os.environ.get("FEDKIM_FLOWER_PYTHON")
SCRIPT = Path(__file__).parents[2] / "benchmarks/peers/flower_strategies.py"
W, GROUP = "encoders.image.w", "encoders.image"
NUM_VALUES, NUM_CLIENTS, NUM_ROUNDS = 50, 5, 3

pytestmark = pytest.mark.skipif(PYTHON is None, reason="FEDKIM_FLOWER_PYTHON is not set")


def flower(**asked: Any) -> list[list[float]]:
    """Return the global values after each round, by Flower."""
    done = subprocess.run(
        [str(PYTHON), SCRIPT], input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    after: list[list[float]] = json.loads(done.stdout.splitlines()[-1])
    return after


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (FedAvg(), "FedAvg", {}),
        (
            FedAvgM(eta=0.5, beta=0.9),
            "FedAvgM",
            {"server_learning_rate": 0.5, "server_momentum": 0.9},
        ),
        (Median(), "FedMedian", {}),
    ],
    ids=["fedavg", "fedavgm", "median"],
)
def test_the_same_global_values_round_after_round(
    ours: Strategy, theirs: str, settings: dict[str, float]
) -> None:
    draw = torch.Generator().manual_seed(3)
    theta = torch.randn(NUM_VALUES, generator=draw)
    rounds = torch.randn(NUM_ROUNDS, NUM_CLIENTS, NUM_VALUES, generator=draw)
    state, mine = ours.init({W: theta}), []
    for r, values in enumerate(rounds):
        updates = [
            ClientUpdate(
                client_id=str(k),
                round_index=r,
                delta={W: value - state.params[W]},
                num_examples={GROUP: k + 1},
                metrics={},
            )
            for k, value in enumerate(values)
        ]
        state = ours.apply(state, updates)
        mine.append(state.params[W])
    sent = [[[v.tolist(), k + 1] for k, v in enumerate(values)] for values in rounds]
    came = flower(strategy=theirs, settings=settings, initial=theta.tolist(), rounds=sent)
    torch.testing.assert_close(torch.stack(mine), torch.tensor(came), rtol=0.0, atol=1e-6)
