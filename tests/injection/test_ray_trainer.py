"""Injection as Ray Train runs: workers of a round and workers that stay, lost and whole."""

from pathlib import Path

import psutil
import pytest
import torch

from fedkim_ray.injection.ray_workers import InjectionWorkers
from fedkim_ray.injection.round_files import read_injection, read_log
from fedkim_ray.injection.worker import InjectionPlan
from fedkim_ray.storage import Folder
from tests.injection.plans import plan_rounds

ROUNDS = 2


def training_worker() -> psutil.Process:
    """Return the process of the one Ray Train worker."""
    named = [(p, " ".join(p.info["cmdline"] or ())) for p in psutil.process_iter(["cmdline"])]
    mine = psutil.Process().children(recursive=True)
    [worker] = [p for p, name in named if "RayTrainWorker" in name and p in mine]
    return worker


def train(plans: list[InjectionPlan], scratch: Path, kill_at: tuple[int, ...] = ()) -> list[int]:
    """Train rounds; lose the worker once after some steps. Returns the steps told, with repeats."""
    told: list[int] = []

    def on_step(step: int, _loss: float) -> None:
        told.append(step)
        if step in kill_at and told.count(step) == 1:
            training_worker().kill()  # as a lost node would

    with InjectionWorkers(plans[0].recipe, str(scratch)) as workers:
        for plan in plans:
            workers.inject(plan, on_step)
    return told


@pytest.fixture(scope="module")
def expected(
    ray_cluster: None, tiny_root: str, tmp_path_factory: pytest.TempPathFactory
) -> list[InjectionPlan]:
    """Published rounds whose workers were started for each and never lost."""
    folder = tmp_path_factory.mktemp("expected")
    plans = plan_rounds(folder, tiny_root, ROUNDS)
    assert train(plans, folder / "ray") == [*range(6 * ROUNDS)]
    return plans


def require_same(came: list[InjectionPlan], expected: list[InjectionPlan]) -> None:
    """Hold weights, moments and losses of every round against the expected ones, to the bit."""
    for mine, theirs in zip(came, expected, strict=True):
        folders = [Folder.at(plan.out_url) for plan in (mine, theirs)]
        assert read_log(folders[0]) == read_log(folders[1])
        one, other = (read_injection(folder)[0] for folder in folders)
        for values, wanted in ((one.params, other.params), (one.moments, other.moments)):
            assert values.keys() == wanted.keys()
            assert all(torch.equal(values[name], wanted[name]) for name in values)
        assert not Path(f"{mine.out_url}.unfinished").exists()


@pytest.mark.ray
def test_lost_workers_of_a_round_go_on_from_its_last_checkpoint(
    expected: list[InjectionPlan], tiny_root: str, tmp_path: Path
) -> None:
    plans = plan_rounds(tmp_path, tiny_root, ROUNDS)
    told = train(plans, tmp_path / "ray", kill_at=(3, 6))
    assert told.count(0) == told.count(1) == 1  # they were in the checkpoint
    require_same(plans, expected)


@pytest.mark.ray
def test_workers_that_stay_train_every_round_in_one_process(
    expected: list[InjectionPlan], tiny_root: str, tmp_path: Path
) -> None:
    plans = plan_rounds(tmp_path, tiny_root, ROUNDS, "injection.workers=whole_run")
    processes = set()
    with InjectionWorkers(plans[0].recipe, str(tmp_path / "ray")) as workers:
        for plan in plans:
            workers.inject(plan, on_step=lambda step, loss: None)
            processes.add(training_worker().pid)  # it is there between rounds, with what it holds
    assert len(processes) == 1
    require_same(plans, expected)


@pytest.mark.ray
def test_a_staying_worker_may_be_lost_once_in_every_round(
    expected: list[InjectionPlan], tiny_root: str, tmp_path: Path
) -> None:
    stays = ("injection.workers=whole_run", "injection.max_failures=1")
    plans = plan_rounds(tmp_path, tiny_root, ROUNDS, *stays)
    told = train(plans, tmp_path / "ray", kill_at=(3, 8))
    assert told.count(0) == told.count(1) == told.count(6) == told.count(7) == 1
    require_same(plans, expected)
