"""Who is sampled: from the seed, the round and who is there, and nothing else."""

import pytest

from fedkim_ray.config import FederationConfig
from fedkim_ray.federation.sampling import number_to_sample, sample_clients

CLIENTS = [f"c{k}" for k in range(10)]


def test_a_sample_is_the_same_whatever_the_order() -> None:
    one = sample_clients(CLIENTS, 4, seed=1, round_index=2)
    assert one == sample_clients(CLIENTS[::-1], 4, seed=1, round_index=2)
    assert len(set(one)) == 4
    assert one == sorted(one)


def test_rounds_and_seeds_draw_anew() -> None:
    draws = {tuple(sample_clients(CLIENTS, 4, s, r)) for s in range(3) for r in range(3)}
    assert len(draws) == 9


def test_a_client_that_is_away_changes_its_own_place_alone() -> None:
    whole = sample_clients(CLIENTS, 4, seed=0, round_index=0)
    without = sample_clients([c for c in CLIENTS if c != whole[0]], 4, seed=0, round_index=0)
    assert set(whole[1:]) < set(without)


def test_clients_are_drawn_equally_often() -> None:
    counts = dict.fromkeys(CLIENTS, 0)
    for round_index in range(1000):
        for client_id in sample_clients(CLIENTS, 3, 0, round_index):
            counts[client_id] += 1
    # 300 each; the standard deviation is sqrt(1000 * 0.3 * 0.7) = 14.5.
    assert all(abs(count - 300) < 4 * 14.5 for count in counts.values())


@pytest.mark.parametrize(
    ("config", "number"),
    [
        ({}, 10),
        ({"clients_per_round": 3}, 3),
        ({"clients_per_round": 30}, 10),
        ({"client_fraction": 0.3}, 3),
        ({"client_fraction": 0.31}, 4),
        ({"client_fraction": 0.01}, 1),
    ],
)
def test_the_number_to_sample(config: dict[str, float], number: int) -> None:
    assert number_to_sample(FederationConfig.model_validate(config), 10) == number


def test_a_number_and_a_share_exclude_one_another() -> None:
    with pytest.raises(ValueError, match="exclude one another"):
        FederationConfig(clients_per_round=2, client_fraction=0.5)
