"""Who must have joined when a run begins; the mailbox's answers are scripted, no Ray is started."""

from collections.abc import Sequence
from unittest.mock import MagicMock

import pytest
import ray

from fedkim_ray.config import MedianConfig
from fedkim_ray.errors import EnvironmentProblemError
from fedkim_ray.federation import ray_clients
from fedkim_ray.federation.mailbox import Member
from fedkim_ray.federation.ray_clients import RayClients

pytestmark = pytest.mark.ray
AWAY = {"south": {"hospital:south": 1.0}}


def begin(
    tiny,
    monkeypatch: pytest.MonkeyPatch,
    joined: Sequence[str],
    resumed: bool = True,
    **changes,
) -> list[tuple[str, str]]:
    """Wait in vain for those that have not joined; return each event's name and client."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 3.5})
    monkeypatch.setattr(ray_clients, "_living_nodes", lambda: [{"Labels": {}}])
    told: list[tuple[str, str]] = []
    federation = tiny.federation.model_copy(update={"join_timeout_s": 0.05, **changes})
    clients = RayClients(
        list(tiny.setups.values()),
        federation,
        7,
        "test",
        "",
        lambda event: told.append((event["event"], event["client"])),
        quorum_suffices=resumed,
    )
    clients._mailbox = MagicMock()
    there = {member: Member("node", 1, 1) for member in joined}
    monkeypatch.setattr(clients, "_ask", lambda answer: (there, {}))
    clients._wait_for_members()
    return told


def test_all_that_join_in_time_begin(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    told = begin(tiny, monkeypatch, ["north", "south"], min_clients=2)
    assert told == [("client_joined", "north"), ("client_joined", "south")]


def test_a_run_that_only_starts_needs_all(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentProblemError, match=r"south did not start .*2 are the fewest"):
        begin(tiny, monkeypatch, ["north"], resumed=False, client_resources=AWAY)


def test_a_quorum_goes_on_without_a_client_that_is_away(
    tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = begin(tiny, monkeypatch, ["north"], client_resources=AWAY)
    assert told == [("client_joined", "north"), ("client_absent", "south")]


@pytest.mark.parametrize(
    "changes", [{"min_clients": 2}, {"strategy": MedianConfig(name="median")}], ids=str
)
def test_fewer_than_a_quorum_do_not_go_on(
    tiny, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    with pytest.raises(
        EnvironmentProblemError, match=r"south did not start .* hospital:south 1 \("
    ):
        begin(tiny, monkeypatch, ["north"], client_resources=AWAY, **changes)


def test_one_slot_goes_on(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    told = begin(tiny, monkeypatch, ["slot-1"], execution="pooled", min_clients=2, num_slots=2)
    assert told == [("client_joined", "slot-1"), ("client_absent", "slot-0")]
