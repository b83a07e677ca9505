"""FedAvg and FedProx, each against arithmetic done in the head."""

import torch

from fedkim_ray.config import FedAvgConfig, FedProxConfig
from fedkim_ray.federation.strategies import build_strategy
from fedkim_ray.federation.strategies.fedavg import FedAvg
from fedkim_ray.federation.strategies.fedprox import FedProx, proximal_term
from fedkim_ray.federation.update import ClientUpdate

IMAGE, LAB = "encoders.image.w", "encoders.lab.w"
THETA = {IMAGE: torch.tensor([10.0, 20.0]), LAB: torch.tensor([5.0])}


def image_update(client_id: str, delta: list[float], num_examples: int) -> ClientUpdate:
    return ClientUpdate(
        client_id=client_id,
        round_index=0,
        delta={IMAGE: torch.tensor(delta)},
        num_examples={"encoders.image": num_examples},
        metrics={},
    )


UPDATES = [image_update("a", [4.0, 0.0], 1), image_update("b", [0.0, 8.0], 3)]


def test_one_round_adds_the_mean_change() -> None:
    state = FedAvg().apply(FedAvg().init(THETA), UPDATES)
    # (1 * [4, 0] + 3 * [0, 8]) / 4 = [1, 6]
    torch.testing.assert_close(state.params[IMAGE], torch.tensor([11.0, 26.0]))
    assert state.round_index == 1


def test_a_group_that_nobody_trained_keeps_its_parameters() -> None:
    state = FedAvg().apply(FedAvg().init(THETA), UPDATES)
    assert state.params[LAB].tolist() == [5.0]


def test_a_round_leaves_the_state_before_it_untouched() -> None:
    before = FedAvg().init(THETA)
    FedAvg().apply(before, UPDATES)
    assert before.params[IMAGE].tolist() == [10.0, 20.0]
    assert before.round_index == 0


def test_injected_parameters_become_the_new_base() -> None:
    state = FedAvg().apply(FedAvg().init(THETA), UPDATES)
    injected = {IMAGE: torch.zeros(2), LAB: torch.ones(1)}
    state = FedAvg().apply(FedAvg().rebase(state, injected), UPDATES)
    torch.testing.assert_close(state.params[IMAGE], torch.tensor([1.0, 6.0]))
    assert state.round_index == 2


def test_the_proximal_term_and_its_gradient() -> None:
    theta = torch.tensor([3.0, 0.0], requires_grad=True)
    term = proximal_term([theta], [torch.tensor([1.0, 1.0])], mu=0.5)
    term.backward()
    # 0.5 / 2 * (2^2 + (-1)^2) = 1.25; gradient 0.5 * (theta - theta_global) = [1, -0.5]
    assert term.item() == 1.25
    assert theta.grad is not None
    assert theta.grad.tolist() == [1.0, -0.5]


def test_fedprox_is_fedavg_on_the_server() -> None:
    prox, avg = FedProx(mu=0.5), FedAvg()
    assert (prox.proximal_mu, avg.proximal_mu) == (0.5, 0.0)
    torch.testing.assert_close(
        prox.apply(prox.init(THETA), UPDATES).params, avg.apply(avg.init(THETA), UPDATES).params
    )


def test_a_recipe_names_its_strategy() -> None:
    assert build_strategy(FedAvgConfig()) == FedAvg()
    assert build_strategy(FedProxConfig(mu=0.01)) == FedProx(mu=0.01)
