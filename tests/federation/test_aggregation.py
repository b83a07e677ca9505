"""Means with numbers a reader can check: two clients, two parameter groups."""

import pytest
import safetensors.torch
import torch

from fedkim_ray.errors import ParamsMismatchError, StorageError
from fedkim_ray.federation.aggregation import (
    ServerState,
    rebased,
    state_from_tensors,
    state_tensors,
    weighted_mean_delta,
)
from fedkim_ray.federation.update import ClientUpdate

IMAGE, LAB = "encoders.image.w", "encoders.lab.w"


def update(client_id: str, **groups: tuple[list[float], int]) -> ClientUpdate:
    """Build an update from ``group=(delta, num_examples)``."""
    return ClientUpdate(
        client_id=client_id,
        round_index=0,
        delta={f"encoders.{g}.w": torch.tensor(delta) for g, (delta, _) in groups.items()},
        num_examples={f"encoders.{g}": n for g, (_, n) in groups.items()},
        metrics={},
    )


SMALL = update("a", image=([4.0, 0.0], 1), lab=([8.0], 5))
LARGE = update("b", image=([0.0, 8.0], 3))


def test_each_group_is_weighted_by_its_own_examples() -> None:
    d = weighted_mean_delta([SMALL, LARGE])
    # image: (1 * [4, 0] + 3 * [0, 8]) / 4 = [1, 6]; lab was trained by a alone: 8.
    torch.testing.assert_close(d[IMAGE], torch.tensor([1.0, 6.0]))
    torch.testing.assert_close(d[LAB], torch.tensor([8.0]))


def test_a_group_that_nobody_trained_has_no_mean() -> None:
    assert weighted_mean_delta([LARGE]).keys() == {IMAGE}
    assert weighted_mean_delta([]) == {}


def test_a_client_without_examples_of_a_group_adds_nothing_to_it() -> None:
    idle = update("c", image=([100.0, 100.0], 0))
    assert weighted_mean_delta([idle]) == {}
    for order in ([idle, LARGE], [LARGE, idle]):
        torch.testing.assert_close(weighted_mean_delta(order)[IMAGE], torch.tensor([0.0, 8.0]))


def test_updates_may_come_from_a_generator_and_stay_as_they_were() -> None:
    weighted_mean_delta(u for u in (SMALL, LARGE))
    assert SMALL.delta[IMAGE].tolist() == [4.0, 0.0]
    assert LARGE.delta[IMAGE].tolist() == [0.0, 8.0]


STATE = ServerState(
    params={IMAGE: torch.tensor([1.0, 2.0])},
    slots={"momentum": {IMAGE: torch.tensor([3.0, 4.0])}},
    round_index=5,
)


def test_a_state_survives_safetensors() -> None:
    copy = state_from_tensors(safetensors.torch.load(safetensors.torch.save(state_tensors(STATE))))
    assert copy.round_index == 5
    torch.testing.assert_close(copy.params, STATE.params)
    torch.testing.assert_close(copy.slots, STATE.slots)


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"weights": torch.ones(1)}, "has a tensor 'weights'"),
        ({f"params/{IMAGE}": torch.ones(1)}, "has no 'round_index'"),
    ],
)
def test_other_tensors_are_no_state(tensors: dict[str, torch.Tensor], text: str) -> None:
    with pytest.raises(StorageError, match=text):
        state_from_tensors(tensors)


def test_a_new_base_replaces_parameters_and_keeps_moments() -> None:
    after = rebased(STATE, {IMAGE: torch.tensor([9.0, 9.0])})
    assert after.params[IMAGE].tolist() == [9.0, 9.0]
    assert (after.slots, after.round_index) == (STATE.slots, 5)


@pytest.mark.parametrize("params", [{IMAGE: torch.ones(3)}, {LAB: torch.ones(2)}, {}])
def test_a_new_base_of_another_model_is_refused(params: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ParamsMismatchError, match=r"differs in name or shape at \['encoders"):
        rebased(STATE, params)
