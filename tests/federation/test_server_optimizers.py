"""FedAvgM, FedAdam and FedYogi against their papers' equations, worked by hand."""

import pytest
import torch

from fedkim_ray.config import FederationConfig
from fedkim_ray.federation.aggregation import ServerState, Strategy
from fedkim_ray.federation.strategies import build_strategy
from fedkim_ray.federation.strategies.fedadam import FedAdam
from fedkim_ray.federation.strategies.fedavg import FedAvg
from fedkim_ray.federation.strategies.fedavgm import FedAvgM
from fedkim_ray.federation.strategies.fedyogi import FedYogi
from fedkim_ray.federation.update import ClientUpdate

IMAGE, LAB = "encoders.image.w", "encoders.lab.w"
THETA = {IMAGE: torch.tensor([10.0]), LAB: torch.tensor([5.0])}


def mean_change(value: float) -> list[ClientUpdate]:
    """Two clients of 1 and 3 examples of the image group, whose mean change is ``value``."""
    return [
        ClientUpdate(
            client_id=client_id,
            round_index=0,
            delta={IMAGE: torch.tensor([delta])},
            num_examples={"encoders.image": n},
            metrics={},
        )
        for client_id, delta, n in (("a", 4 * value, 1), ("b", 0.0, 3))
    ]


def after(strategy: Strategy, *changes: float) -> ServerState:
    state = strategy.init(THETA)
    for change in changes:
        state = strategy.apply(state, mean_change(change))
    return state


def value(state: ServerState, slot: str | None = None) -> float:
    return (state.slots[slot] if slot else state.params)[IMAGE].item()


def test_momentum_carries_a_round_into_the_next() -> None:
    state = after(FedAvgM(eta=0.5, beta=0.5), 2.0, 4.0)
    # m: 2, then 0.5 * 2 + 4 = 5; theta: 10 + 0.5 * 2 = 11, then 11 + 0.5 * 5 = 13.5.
    assert (value(state, "momentum"), value(state)) == (5.0, 13.5)


def test_without_momentum_it_is_fedavg() -> None:
    plain, momentum = after(FedAvg(), 2.0, 4.0), after(FedAvgM(eta=1.0, beta=0.0), 2.0, 4.0)
    assert torch.equal(plain.params[IMAGE], momentum.params[IMAGE])


def test_two_adam_steps() -> None:
    state = after(FedAdam(eta=2.0, beta1=0.5, beta2=0.75, tau=2.0), 4.0, 0.0)
    # v_0 = tau^2 = 4. Round 1: m = 0.5 * 4 = 2; v = 0.75 * 4 + 0.25 * 16 = 7.
    # Round 2: m = 0.5 * 2 = 1; v = 0.75 * 7 = 5.25.
    assert value(state, "m") == 1.0
    assert value(state, "v") == 5.25
    expected = 10.0 + 2.0 * 2.0 / (7.0**0.5 + 2.0) + 2.0 * 1.0 / (5.25**0.5 + 2.0)
    assert value(state) == pytest.approx(expected, rel=1e-6)


def test_yogi_moves_its_second_moment_by_a_bounded_amount() -> None:
    yogi = FedYogi(eta=2.0, beta1=0.5, beta2=0.75, tau=2.0)
    # v_0 = 4. d = 4: v = 4 + 0.25 * 16 = 8; d = 1: v = 8 - 0.25 * 1 = 7.75; d = 0: v stays.
    assert value(after(yogi, 4.0), "v") == 8.0
    assert value(after(yogi, 4.0, 1.0), "v") == 7.75
    assert value(after(yogi, 4.0, 1.0, 0.0), "v") == 7.75
    # m = 0.5 * 4 = 2.
    expected = 10.0 + 2.0 * 2.0 / (8.0**0.5 + 2.0)
    assert value(after(yogi, 4.0)) == pytest.approx(expected, rel=1e-6)


STRATEGIES = [
    FedAvgM(eta=1.0, beta=0.9),
    FedAdam(eta=0.1, beta1=0.9, beta2=0.99, tau=0.1),
    FedYogi(eta=0.1, beta1=0.9, beta2=0.99, tau=0.1),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: type(s).__name__)
def test_a_group_that_nobody_trained_keeps_parameters_and_moments(strategy: Strategy) -> None:
    before, state = strategy.init(THETA), after(strategy, 2.0, 4.0)
    assert state.params[LAB].item() == 5.0
    assert state.round_index == 2
    for slot, moments in state.slots.items():
        assert torch.equal(moments[LAB], before.slots[slot][LAB])
        assert not torch.equal(moments[IMAGE], before.slots[slot][IMAGE])


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: type(s).__name__)
def test_a_round_leaves_the_state_before_it_untouched(strategy: Strategy) -> None:
    state = after(strategy, 2.0)
    copy = {slot: m[IMAGE].clone() for slot, m in state.slots.items()}
    strategy.apply(state, mean_change(4.0))
    assert all(torch.equal(state.slots[slot][IMAGE], m) for slot, m in copy.items())


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("fedavgm", FedAvgM(eta=1.0, beta=0.9)),
        ("fedadam", FedAdam(eta=1e-2, beta1=0.9, beta2=0.99, tau=1e-3)),
        ("fedyogi", FedYogi(eta=1e-2, beta1=0.9, beta2=0.99, tau=1e-3)),
    ],
)
def test_a_recipe_names_its_strategy(name: str, strategy: Strategy) -> None:
    config = FederationConfig.model_validate({"strategy": {"name": name}})
    assert build_strategy(config.strategy) == strategy
