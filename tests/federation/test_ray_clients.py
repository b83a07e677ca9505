"""Clients in a real local Ray: the same bits as the plain loop, whatever dies."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from ray.exceptions import ActorUnavailableError

from fedkim_ray.data.demo.tiny import CLIENTS, SPEC
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.errors import ClientFailedError, EnvironmentProblemError, RoundFailedError
from fedkim_ray.federation.aggregation import ServerState
from fedkim_ray.federation.client import OpenClients
from fedkim_ray.federation.clients import Clients, Event
from fedkim_ray.federation.coordinator import run_round, score_params
from fedkim_ray.federation.local_clients import LocalClients
from fedkim_ray.federation.mailbox import Letter
from fedkim_ray.federation.ray_clients import RayClients, _delivered, open_clients
from fedkim_ray.federation.report import RoundReport
from fedkim_ray.federation.strategies.fedavg import FedAvg

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
TRAINED = {t.id: t for t in TASKS if t.role == "train"}


def held() -> set[str]:
    """Return the clients' threads of this process, and the placement groups that hold CPUs."""
    import ray

    threads = {t.name for t in threading.enumerate() if t.name.startswith("test-")}
    groups = ray.util.placement_group_table()
    return threads | {name for name, group in groups.items() if group["state"] != "REMOVED"}


def free_cpus() -> float:
    import ray

    return ray.available_resources().get("CPU", 0.0)


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Hold that no thread and no placed worker of the block outlives it.

    What earlier tests left may go meanwhile, so more CPUs may be free than before.
    """
    before, free_before = held(), free_cpus()
    yield
    deadline = time.monotonic() + 40.0
    while (held() - before or free_cpus() < free_before) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert held() - before == set()
    assert free_cpus() >= free_before


@pytest.fixture(scope="module")
def opened(tiny, tmp_path_factory) -> Callable[..., Clients]:
    """Open the tiny federation's clients by execution, with changes to its config."""

    def open_tiny(execution: str, **changes) -> Clients:
        return open_clients(
            client_ids=list(CLIENTS),
            data_url=tiny.root,
            spec=SPEC,
            encoders=tiny.encoders,
            tasks_by_client={c: tuple(TRAINED[t] for t in ids) for c, ids in CLIENTS.items()},
            all_tasks=list(TRAINED.values()),
            federation=tiny.federation.model_copy(update={"execution": execution, **changes}),
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
    tiny, clients: Clients, rounds: int, epochs: int = 1, on_event=None, local=None, **changes
) -> tuple[ServerState, list[RoundReport]]:
    local = tiny.federation.local.model_copy(update={"epochs": epochs, **(local or {})})
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


@pytest.mark.parametrize("checkpoint_every", [None, 5])
def test_a_worker_killed_in_a_round_comes_back_and_answers(
    tiny, opened, resident: RayClients, checkpoint_every: int | None
) -> None:
    with opened("local") as clients:
        expected, _ = train(tiny, clients, rounds=1, epochs=25)
    victim = resident.members()["south"]

    def kill_soon(event: Event) -> None:
        if event["event"] == "round_started":
            threading.Timer(1.0, os.kill, (victim.pid, signal.SIGKILL)).start()

    num_starts = resident.members()["south"].num_starts
    kept = {"checkpoint_every": checkpoint_every}
    came, [report] = train(tiny, resident, rounds=1, epochs=25, on_event=kill_soon, local=kept)
    assert resident.members()["south"].num_starts == num_starts + 1
    assert report.failures == ()
    assert same(came, expected)


def test_a_client_that_dies_for_good_is_a_failed_client(tiny, opened, monkeypatch) -> None:
    monkeypatch.setattr("fedkim_ray.federation.ray_runs.WORKER_RESTARTS", 0)
    with nothing_left_behind(), opened("resident") as clients:
        assert isinstance(clients, RayClients)
        os.kill(clients.members()["south"].pid, signal.SIGKILL)
        _, reports = train(tiny, clients, rounds=2)
    assert [[c.client_id for c in report.clients] for report in reports] == [["north"]] * 2
    assert [report.failures_by_cause for report in reports] == [{"ClientLost": 1}, {}]
    assert reports[1].num_available == 1  # it is not asked again


def test_slots_that_find_no_room_are_named_within_the_time_given(opened) -> None:
    clients = opened("pooled", join_timeout_s=5.0, cpus_per_client=64.0, num_slots=1)
    with (
        nothing_left_behind(),
        pytest.raises(EnvironmentProblemError, match=r"Slots slot-0 did not start .* CPU 64 \("),
    ):
        clients.__enter__()


def test_a_client_without_its_resources_is_named_within_the_time_given(tiny, opened) -> None:
    clients = opened(
        "resident",
        min_clients=2,
        join_timeout_s=15.0,
        client_resources={"south": {"hospital:south": 1.0}},
    )
    with (
        nothing_left_behind(),
        pytest.raises(EnvironmentProblemError, match=r"south did not start .* hospital:south 1 \("),
    ):
        clients.__enter__()


@pytest.mark.parametrize("execution", ["resident", "pooled"])
def test_a_run_that_breaks_off_ends_clients_that_still_train(tiny, opened, execution: str) -> None:
    def interrupt(event: Event) -> None:
        if event["event"] == "round_started":
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()

    with (
        nothing_left_behind(),
        pytest.raises(KeyboardInterrupt),
        opened(execution, num_slots=1) as clients,
    ):
        train(tiny, clients, rounds=1, epochs=10_000, on_event=interrupt)


def test_an_update_lost_from_the_object_store_is_a_failed_client(monkeypatch) -> None:
    import ray

    def lost(ref: object) -> None:
        raise ray.exceptions.RayError

    monkeypatch.setattr(ray, "get", lost)
    with pytest.raises(ClientFailedError, match="update of client 'a' for round 3 is lost"):
        _delivered(Letter("a", 3, 10, ["ref"])).load()


def test_a_slot_for_two_clients_gives_the_plain_loops_bits(tiny, opened) -> None:
    with opened("local") as clients:
        expected, _ = train(tiny, clients, rounds=2)
    with nothing_left_behind(), opened("pooled", num_slots=1) as clients:
        assert isinstance(clients, RayClients)
        assert clients.members().keys() == {"slot-0"}
        came, reports = train(tiny, clients, rounds=2)
        scores = score_params(clients, came.params, 1, "score_injected", federation=tiny.federation)
    assert same(came, expected)
    assert [c.client_id for report in reports for c in report.clients] == ["north", "south"] * 2
    assert scores["mortality"]["auroc"] > 0.5


def test_a_slot_killed_in_a_round_comes_back_and_answers(tiny, opened) -> None:
    with opened("local") as clients:
        expected, _ = train(tiny, clients, rounds=1, epochs=25)
    with nothing_left_behind(), opened("pooled", num_slots=1) as clients:
        assert isinstance(clients, RayClients)
        victim = clients.members()["slot-0"]

        def kill_soon(event: Event) -> None:
            if event["event"] == "round_started":
                threading.Timer(1.0, os.kill, (victim.pid, signal.SIGKILL)).start()

        came, [report] = train(tiny, clients, rounds=1, epochs=25, on_event=kill_soon)
        assert clients.members()["slot-0"].num_starts == 2
    assert report.failures == ()
    assert same(came, expected)


def test_a_slot_that_is_killed_for_good_is_lost_and_frees_its_cpus(tiny, opened) -> None:
    import ray

    with nothing_left_behind(), opened("pooled", num_slots=1) as clients:
        with nothing_left_behind(), opened("pooled", num_slots=1) as others:
            ray.kill(others._starter._actors[0])
            with pytest.raises(RoundFailedError, match=r"No slot is left. 'test-slot-0' is over"):
                train(tiny, others, rounds=1)
        _, [report] = train(tiny, clients, rounds=1)
    assert report.failures == ()


def test_a_slot_begins_anew_after_an_error_of_the_transport(tiny, tmp_path) -> None:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    federation = tiny.federation.model_copy(update={"execution": "pooled", "num_slots": 1})
    opener = partial(opens_the_second_time, tmp_path / "tried")
    setups = list(tiny.setups.values())
    with (
        nothing_left_behind(),
        RayClients(setups, federation, 7, "test", "", opener=opener) as clients,
    ):
        _, [report] = train(tiny, clients, rounds=1)
        assert clients.members()["slot-0"].num_starts == 2
    assert report.failures == ()


def test_a_placement_group_that_ray_train_forgot_is_freed(opened) -> None:
    import ray

    with nothing_left_behind(), opened("resident") as clients:
        forgotten = ray.util.placement_group([{"CPU": 0.5}])
        ray.get([forgotten.ready(), clients._mailbox.add_placement.remote(forgotten)])


def test_a_slot_of_two_workers_agrees_with_the_plain_loop(tiny_without_dropout, tmp_path) -> None:
    tiny = tiny_without_dropout
    setups = list(tiny.setups.values())
    with LocalClients(setups, 7) as clients:
        expected, [local_report] = train(tiny, clients, rounds=1)
    federation = tiny.federation.model_copy(
        update={"execution": "pooled", "workers_per_client": 2, "num_slots": 1}
    )
    with (
        nothing_left_behind(),
        RayClients(setups, federation, 7, "test", str(tmp_path)) as clients,
    ):
        came, [report] = train(tiny, clients, rounds=1, workers_per_client=2)
    assert report.failures == ()
    assert report.group_examples == local_report.group_examples
    # Adam's first steps are +-lr, whatever the gradient: where its sign is rounding, they differ.
    pairs = [(came.params[n].reshape(-1), w.reshape(-1)) for n, w in expected.params.items()]
    ours, theirs = (torch.cat(side) for side in zip(*pairs, strict=True))
    assert torch.isclose(ours, theirs, rtol=1e-2, atol=1e-4).float().mean() > 0.99


@pytest.mark.parametrize("member", ["slot-0", "north"])
def test_a_client_that_hangs_misses_its_round_alone(tiny, tmp_path, member: str) -> None:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    execution = "pooled" if member == "slot-0" else "resident"
    federation = tiny.federation.model_copy(update={"execution": execution, "num_slots": 1})
    impatient = federation.model_copy(update={"client_timeout_s": 12.0})
    setups = list(tiny.setups.values())
    with (
        nothing_left_behind(),
        RayClients(
            setups, federation, 7, "test", str(tmp_path), opener=north_hangs_at_first
        ) as clients,
    ):
        state = FedAvg().init(tiny.params)
        state, first = run_round(FedAvg(), state, clients, 0, federation=impatient)
        _, second = run_round(FedAvg(), state, clients, 1, federation=federation)
        assert clients.members()[member].num_starts == 2
    assert first.failures_by_cause == {"ClientTimeout": 1}
    assert [c.client_id for c in first.clients] == ["south"]
    assert second.failures == ()
    assert [c.client_id for c in second.clients] == ["north", "south"]


def opens_the_second_time(tried: Path, setup_of):
    """Fail once, as a slot does whose mailbox cannot be reached for a moment."""
    if not tried.exists():
        tried.touch()
        raise ActorUnavailableError("The connection broke.", None)
    return OpenClients(setup_of)


def north_hangs_at_first(setup_of):
    """Open clients of whom north does not come back from its first round."""
    opened = OpenClients(setup_of)

    class Hanging:
        def train_round(self, plan, theta_global):
            if plan.round_index == 0:
                time.sleep(3600)
            return opened("north").train_round(plan, theta_global)

    return lambda client_id: Hanging() if client_id == "north" else opened(client_id)
