"""Federated rounds on the tiny root in a plain loop."""

import pytest
import torch

from fedkim_ray.config import FederationConfig, FedProxConfig
from fedkim_ray.data.demo.tiny import SPEC
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.errors import RecipeError
from fedkim_ray.federation.aggregation import ServerState
from fedkim_ray.federation.coordinator import run_round
from fedkim_ray.federation.local_clients import LocalClients
from fedkim_ray.federation.report import RoundReport
from fedkim_ray.federation.setup import make_setups
from fedkim_ray.federation.strategies import build_strategy
from fedkim_ray.types import param_group


def train(
    tiny, client_ids: list[str], rounds: int, **changes
) -> tuple[ServerState, list[RoundReport]]:
    federation = tiny.federation.model_copy(update=changes)
    strategy = build_strategy(federation.strategy)
    state, reports = strategy.init(tiny.params), []
    with LocalClients([tiny.setups[c] for c in client_ids], seed=7) as clients:
        for round_index in range(rounds):
            state, report = run_round(strategy, state, clients, round_index, federation=federation)
            reports.append(report)
    return state, reports


def test_the_global_model_gets_better_on_what_clients_kept_for_validation(tiny) -> None:
    _, reports = train(tiny, ["north", "south"], rounds=3)
    first, last = reports[0].tasks, reports[-1].tasks
    assert first.keys() == {"lung_opacity", "covid19", "ecg_abnormal", "mortality"}
    for task in first:
        assert last[task]["loss_before"] < first[task]["loss_before"]
        assert last[task]["auroc_before"] > 0.9


def test_a_client_without_images_leaves_the_image_encoder_as_it_was(tiny) -> None:
    state, [report] = train(tiny, ["south"], rounds=1)
    assert "encoders.image" not in report.group_examples
    for name, value in state.params.items():
        same = torch.equal(value, tiny.params[name])
        assert same == (param_group(name) not in report.group_examples), name


def test_one_client_alone_is_the_mean(tiny) -> None:
    together, _ = train(tiny, ["north", "south"], rounds=1)
    north, _ = train(tiny, ["north"], rounds=1)
    for name, value in north.params.items():
        if param_group(name) == "encoders.image":  # south neither adds to it nor dilutes it
            torch.testing.assert_close(together.params[name], value)


def test_the_same_seed_gives_the_same_bits(tiny) -> None:
    one, other = (train(tiny, ["north", "south"], rounds=2)[0] for _ in range(2))
    assert all(torch.equal(one.params[name], other.params[name]) for name in one.params)


def test_fedprox_keeps_the_model_nearer(tiny) -> None:
    def distance(**changes) -> float:
        state, _ = train(tiny, ["north", "south"], rounds=1, **changes)
        return sum(float((w - tiny.params[n]).square().sum()) for n, w in state.params.items())

    assert distance(strategy=FedProxConfig(mu=10.0)) < distance()


def test_a_client_with_broken_data_is_a_failed_client(tiny) -> None:
    broken = tiny.setups["south"].model_copy(update={"data_url": "/nowhere"})
    strategy = build_strategy(tiny.federation.strategy)
    with LocalClients([tiny.setups["north"], broken], seed=7) as clients:
        _, report = run_round(
            strategy, strategy.init(tiny.params), clients, 0, federation=tiny.federation
        )
    assert [c.client_id for c in report.clients] == ["north"]
    assert [(f.client_id, f.cause) for f in report.failures] == [("south", "DataError")]


TRAINED = {t.id: t for t in TASKS}


@pytest.mark.parametrize(
    ("client_ids", "min_clients", "text"),
    [
        (["north"], 2, r"min_clients is 2. 1 clients take part: \['north'\]"),
        (["north", "west"], 1, "Client 'west' has no yes/no task"),
    ],
)
def test_an_impossible_federation_is_refused_before_it_starts(
    tiny, client_ids: list[str], min_clients: int, text: str
) -> None:
    with pytest.raises(RecipeError, match=text):
        make_setups(
            client_ids,
            tiny.root,
            SPEC,
            tiny.encoders,
            {"north": (TRAINED["covid19"],), "west": (TRAINED["med_vqa"],)},
            [TRAINED["covid19"], TRAINED["med_vqa"]],
            FederationConfig(min_clients=min_clients),
        )
