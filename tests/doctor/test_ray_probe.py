"""The doctor's look at a real Ray: a client is found where its pins lead, or said to be nowhere."""

import pytest

from fedkim_ray.doctor import ray_probe
from fedkim_ray.doctor.ray_probe import look_at_clients

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_a_label_that_no_node_has_places_nobody(
    monkeypatch: pytest.MonkeyPatch, tiny_root: str
) -> None:
    monkeypatch.setattr(ray_probe, "PLACE_TIMEOUT_S", 10.0)
    labels = {"south": {"site": "south"}}
    north, south = look_at_clients(["north", "south"], {}, labels, tiny_root, 1000)
    assert (north.data_problem, north.readable_others) == ("", ("south",))
    assert north.node
    assert south.node == ""
