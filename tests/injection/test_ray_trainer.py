"""Injection as Ray Train runs: workers of a round and workers that stay, lost and whole."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from ray.train.v2.api.exceptions import WorkerGroupError

from fedkim_ray.injection import ray_trainer
from fedkim_ray.injection.ray_trainer import _root_cause
from fedkim_ray.injection.ray_workers import InjectionWorkers
from fedkim_ray.injection.round_files import read_log
from fedkim_ray.injection.worker import InjectionPlan
from fedkim_ray.storage import Folder, publish
from tests.injection.plans import plan_rounds, require_same, train_in_a_process

ROUNDS = 3


def training_worker() -> psutil.Process:
    """Return the process of the one Ray Train worker; one of an ended run may be on its way out."""
    named = [(p, " ".join(p.info["cmdline"] or ())) for p in psutil.process_iter(["cmdline"])]
    mine = psutil.Process().children(recursive=True)
    workers = [p for p, name in named if "RayTrainWorker" in name and p in mine]
    return max(workers, key=psutil.Process.create_time)


def losing_workers(told: list[int], at: tuple[int, ...]) -> Callable[[int, float], None]:
    """Write down the steps that workers tell of, and lose the worker once after some of them."""

    def on_step(step: int, _loss: float) -> None:
        told.append(step)
        if step in at and told.count(step) == 1:
            training_worker().kill()  # as a lost node would

    return on_step


@pytest.fixture(scope="module")
def expected(tiny_root: str, tmp_path_factory: pytest.TempPathFactory) -> list[InjectionPlan]:
    """Rounds that one process without Ray trained, and was never lost."""
    folder = tmp_path_factory.mktemp("expected")
    train_in_a_process(folder, tiny_root, ROUNDS)
    return plan_rounds(folder, tiny_root, ROUNDS)


def test_what_is_told_is_the_cause_and_no_connection_that_was_lost_by_it() -> None:
    lost = RuntimeError("[pair.cc:534] Connection closed by peer [10.0.0.2]:4711")
    assert _root_cause(WorkerGroupError("", {0: lost, 1: MemoryError("too large")})) == "too large"
    assert _root_cause(WorkerGroupError("", {0: lost, 1: lost})) == str(lost)
    assert _root_cause(ValueError()) == "ValueError"


@pytest.mark.ray
def test_lost_workers_of_a_round_go_on_from_its_last_checkpoint(
    ray_cluster: None, expected: list[InjectionPlan], tiny_root: str, tmp_path: Path
) -> None:
    plans = plan_rounds(tmp_path, tiny_root, ROUNDS)
    told: list[int] = []
    with InjectionWorkers(plans[0].recipe, str(tmp_path / "ray")) as workers:
        for plan in plans[:2]:
            workers.inject(plan, losing_workers(told, at=(9,)))
    assert told.count(6) == told.count(7) == 1  # they were in the checkpoint
    require_same(plans[:2], expected[:2])


@pytest.mark.ray
def test_workers_that_stay_keep_their_process_and_may_be_lost_once_a_round(
    ray_cluster: None, expected: list[InjectionPlan], tiny_root: str, tmp_path: Path
) -> None:
    stay = ("injection.workers=whole_run", "injection.max_failures=1")
    plans = plan_rounds(tmp_path, tiny_root, ROUNDS, *stay)
    told: list[int] = []
    processes = []
    with InjectionWorkers(plans[0].recipe, str(tmp_path / "ray")) as workers:
        for plan in plans:
            workers.inject(plan, losing_workers(told, at=(3, 8)))
            processes.append(training_worker().pid)  # it is there between rounds
    assert told.count(0) == told.count(1) == told.count(6) == told.count(7) == 1
    assert processes[0] != processes[1] == processes[2]
    require_same(plans, expected)


@pytest.mark.ray
def test_two_workers_share_each_batch_and_end_where_one_does(
    ray_cluster: None, expected: list[InjectionPlan], tiny_root: str, tmp_path: Path
) -> None:
    shared = ("injection.num_workers=2", "injection.zero_stage=2")
    [plan, *_] = plan_rounds(tmp_path, tiny_root, ROUNDS, *shared)
    with InjectionWorkers(plan.recipe, str(tmp_path / "ray")) as workers:
        workers.inject(plan, lambda step, loss: None)
    came, wanted = (read_log(Folder.at(p.out_url)) for p in (plan, expected[0]))
    assert came.steps == wanted.steps
    assert came.loss == pytest.approx(wanted.loss, rel=1e-3)


def test_a_worker_that_starts_after_its_round_is_published_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with publish(Folder.at(tmp_path), "injected", 1):
        pass
    monkeypatch.setattr(ray_trainer, "train_plan", lambda *given: pytest.fail("It trained."))
    ray_trainer._work({"plan": SimpleNamespace(out_url=str(tmp_path)), "progress": None})
