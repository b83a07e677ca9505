"""Resident clients in a real local Ray: the same bits as the plain loop, whatever dies."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from fedkim_ray.data.demo.tiny import CLIENTS, SPEC
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.errors import ClientFailedError, EnvironmentProblemError
from fedkim_ray.federation.aggregation import ServerState
from fedkim_ray.federation.clients import Clients, Event
from fedkim_ray.federation.coordinator import run_round
from fedkim_ray.federation.mailbox import Letter
from fedkim_ray.federation.ray_clients import ResidentClients, _delivered, open_clients
from fedkim_ray.federation.report import RoundReport
from fedkim_ray.federation.strategies.fedavg import FedAvg

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
TRAINED = {t.id: t for t in TASKS if t.role == "train"}


def held() -> tuple[set[str], float]:
    """Return the clients' threads of this process, and the CPUs that nobody holds."""
    import ray

    threads = {t.name for t in threading.enumerate() if t.name.startswith("test-")}
    return threads, ray.available_resources().get("CPU", 0.0)


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Hold that no thread and no placed worker of the block outlives it."""
    before = held()
    yield
    deadline = time.monotonic() + 20.0
    while held() != before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert held() == before


@pytest.fixture(scope="module")
def opened(tiny, tmp_path_factory) -> Callable[..., Clients]:
    """Open the tiny federation's clients by execution, with changes to its config."""

    def open_tiny(execution: str, **changes) -> Clients:
        return open_clients(
            execution,
            client_ids=list(CLIENTS),
            data_url=tiny.root,
            spec=SPEC,
            encoders=tiny.encoders,
            tasks_by_client={c: tuple(TRAINED[t] for t in ids) for c, ids in CLIENTS.items()},
            all_tasks=list(TRAINED.values()),
            federation=tiny.federation.model_copy(update=changes),
            seed=7,
            run_id="test",
            scratch=str(tmp_path_factory.mktemp("scratch")),
        )

    return open_tiny


@pytest.fixture(scope="module")
def resident(ray_cluster, opened) -> Iterator[Clients]:
    """Clients that live through several tests, as they do through several rounds."""
    with nothing_left_behind(), opened("resident") as clients:
        yield clients


def train(
    tiny, clients: Clients, rounds: int, epochs: int = 1, on_event=None, **changes
) -> tuple[ServerState, list[RoundReport]]:
    local = tiny.federation.local.model_copy(update={"epochs": epochs})
    federation = tiny.federation.model_copy(update={"local": local, **changes})
    state, reports = FedAvg().init(tiny.params), []
    for round_index in range(rounds):
        state, report = run_round(
            FedAvg(), state, clients, round_index, federation=federation, on_event=on_event
        )
        reports.append(report)
    return state, reports


def same(one: ServerState, other: ServerState) -> bool:
    return all(torch.equal(value, other.params[name]) for name, value in one.params.items())


def test_two_rounds_equal_the_plain_loops_to_the_bit(tiny, opened, resident: Clients) -> None:
    with opened("local") as clients:
        expected, local_reports = train(tiny, clients, rounds=2)
    came, reports = train(tiny, resident, rounds=2)
    assert same(came, expected)
    for report, local_report in zip(reports, local_reports, strict=True):
        assert report.tasks == local_report.tasks
        assert report.failures == ()


def test_a_worker_killed_in_a_round_comes_back_and_answers(
    tiny, opened, resident: ResidentClients
) -> None:
    with opened("local") as clients:
        expected, _ = train(tiny, clients, rounds=1, epochs=25)
    victim = resident.members()["south"]

    def kill_soon(event: Event) -> None:
        if event["event"] == "round_started":
            threading.Timer(1.0, os.kill, (victim.pid, signal.SIGKILL)).start()

    came, [report] = train(tiny, resident, rounds=1, epochs=25, on_event=kill_soon)
    assert resident.members()["south"].num_starts == 2
    assert report.failures == ()
    assert same(came, expected)


def test_a_client_that_dies_for_good_is_a_failed_client(tiny, opened, monkeypatch) -> None:
    monkeypatch.setattr("fedkim_ray.federation.ray_clients.MAX_WORKER_RESTARTS", 0)
    with nothing_left_behind(), opened("resident") as clients:
        assert isinstance(clients, ResidentClients)
        os.kill(clients.members()["south"].pid, signal.SIGKILL)
        _, reports = train(tiny, clients, rounds=2)
    for report in reports:
        assert [c.client_id for c in report.clients] == ["north"]
        assert report.failures_by_cause == {"ClientLost": 1}


def test_a_client_without_its_resources_is_named_within_the_time_given(tiny, opened) -> None:
    clients = opened(
        "resident", join_timeout_s=15.0, client_resources={"south": {"hospital:south": 1.0}}
    )
    with (
        nothing_left_behind(),
        pytest.raises(EnvironmentProblemError, match=r"south did not start .* hospital:south 1 \("),
    ):
        clients.__enter__()


def test_a_run_that_breaks_off_ends_clients_that_still_train(tiny, opened) -> None:
    def interrupt(event: Event) -> None:
        if event["event"] == "round_started":
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()

    with (
        nothing_left_behind(),
        pytest.raises(KeyboardInterrupt),
        opened("resident") as clients,
    ):
        train(tiny, clients, rounds=1, epochs=10_000, on_event=interrupt)


def test_an_update_lost_from_the_object_store_is_a_failed_client(monkeypatch) -> None:
    import ray

    def lost(ref: object) -> None:
        raise ray.exceptions.RayError

    monkeypatch.setattr(ray, "get", lost)
    with pytest.raises(ClientFailedError, match="update of client 'a' for round 3 is lost"):
        _delivered(Letter("a", 3, 10, ["ref"])).load()
