"""Injection as a Ray Train run: a worker that dies goes on from its last checkpoint."""

from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from fedkim_ray.data.root import read_card
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.injection.ray_trainer import InjectionPlan, inject_round
from fedkim_ray.injection.ray_workers import InjectionWorkers
from fedkim_ray.injection.round_files import read_injection
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.storage import Folder, publish

TRAINED = tuple(task for task in TASKS if task.role == "train")


def plan_in(folder: Path, data_url: str, *overrides: str) -> InjectionPlan:
    """Plan a first round of six steps, saved after every second."""
    recipe = load_recipe(
        "tiny",
        [
            f"data.root={data_url}",
            "federation.rounds=1",
            "injection.steps_per_round=6",
            "injection.checkpoint_steps=2",
            *overrides,
        ],
    )
    torch.manual_seed(0)
    spec = read_card(Folder.at(data_url)).spec
    params = LightModel(recipe.encoders, spec, TRAINED).params()
    with publish(Folder.at(folder / "aggregated"), "aggregated", 1) as out:
        encoders = {n: p for n, p in params.items() if n.startswith("encoders.")}
        out.write_tensors("encoders.safetensors", encoders)
    return InjectionPlan(
        recipe=recipe,
        tasks=tuple(task.id for task in TRAINED),
        round_index=0,
        aggregated_url=str(folder / "aggregated"),
        previous_url=None,
        out_url=str(folder / "injected"),
    )


def training_worker() -> psutil.Process:
    """Return the process of the one Ray Train worker."""
    named = [(p, " ".join(p.info["cmdline"] or ())) for p in psutil.process_iter(["cmdline"])]
    mine = psutil.Process().children(recursive=True)
    [worker] = [p for p, name in named if "RayTrainWorker" in name and p in mine]
    return worker


@pytest.mark.ray
def test_a_lost_worker_goes_on_from_its_last_checkpoint(
    ray_cluster: None, tiny_root: str, tmp_path: Path
) -> None:
    seen: list[int] = []

    def on_step(step: int, _loss: float) -> None:
        seen.append(step)
        if step == 3 and seen.count(3) == 1:
            training_worker().kill()  # as a lost node would

    inject_round(plan_in(tmp_path, tiny_root), str(tmp_path / "ray"), on_step)
    state, _ = read_injection(Folder.at(tmp_path / "injected"))
    log = Folder.at(tmp_path / "injected").read_json("log.json")
    assert state.step == 6
    assert log["steps"] == [0, 1, 2, 3, 4, 5]
    assert seen.count(0) == seen.count(1) == 1  # they were in the checkpoint
    assert not Path(f"{tmp_path}/injected.unfinished").exists()


@pytest.mark.ray
def test_workers_that_stay_train_one_round_after_another(
    ray_cluster: None, tiny_root: str, tmp_path: Path
) -> None:
    first = plan_in(tmp_path, tiny_root, "injection.workers=whole_run")
    second = replace(
        first, round_index=1, previous_url=first.out_url, out_url=str(tmp_path / "injected-1")
    )
    steps: list[int] = []
    processes: set[int] = set()

    def on_step(step: int, _loss: float) -> None:
        steps.append(step)
        processes.add(training_worker().pid)

    with InjectionWorkers(first.recipe, str(tmp_path / "ray")) as workers:
        workers.inject(first, on_step)
        training_worker()  # it is there between the rounds, with what it holds
        workers.inject(second, on_step)
    assert steps == [*range(12)]
    assert len(processes) == 1
    assert read_injection(Folder.at(second.out_url))[0].step == 12
