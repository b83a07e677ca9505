"""What a round moves, counted by hand."""

import pytest

from fedkim_ray.config import FederationConfig
from fedkim_ray.federation.sizing import (
    CONTROL_BYTES,
    ClientSize,
    RoundSize,
    control_bytes,
    transfers,
)


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


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, CONTROL_BYTES),
        ({"execution": "pooled"}, 0),
        ({"execution": "local"}, 0),
        ({"execution": "pooled", "workers_per_client": 2}, CONTROL_BYTES),
    ],
)
def test_only_a_ray_train_run_has_something_beside_its_workers(
    settings: dict[str, object], expected: int
) -> None:
    assert control_bytes(FederationConfig.model_validate(settings)) == expected
