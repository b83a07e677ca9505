"""What a round moves, counted by hand."""

import pytest

from fedkim_ray.config import FederationConfig
from fedkim_ray.federation.sizing import ClientSize, RoundSize, transfers


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (10 + 2 * 10, 10)),
        ({"evaluate": False}, (10, 10)),
        ({"clients_per_round": 3}, (3 + 2 * 10, 3)),  # all score
    ],
)
def test_theta_goes_out_to_train_and_twice_to_score(
    settings: dict[str, object], expected: tuple[int, int]
) -> None:
    assert transfers(FederationConfig.model_validate(settings), 10) == expected


def test_a_round_moves_theta_so_often_and_the_updates_of_those_it_asks() -> None:
    clients = tuple(
        ClientSize(client_id=c, tasks={}, groups=(), bytes_down=40, bytes_up=up, worker_bytes=0)
        for c, up in (("a", 8), ("b", 40), ("c", 12))
    )
    size = RoundSize(
        num_parameters=10,
        clients=clients,
        num_down=2 + 2 * 3,
        num_up=2,
        server_bytes=0,
        control_bytes=0,
    )
    assert (size.bytes_down, size.bytes_up) == (8 * 40, 40 + 12)
