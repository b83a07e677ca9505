"""Rounds of injection on the tiny recipe, as a run would plan them."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from fedkim_ray.data.root import read_card
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.injection.round_files import read_injection, read_log
from fedkim_ray.injection.worker import InjectionPlan
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.storage import Folder, publish

TRAINED = tuple(task for task in TASKS if task.role == "train")


def plan_rounds(folder: Path, data_url: str, num: int, *overrides: str) -> list[InjectionPlan]:
    """Plan rounds of six steps, saved after every second, each with encoders of its own."""
    recipe = load_recipe(
        "tiny",
        [
            f"data.root={data_url}",
            f"federation.rounds={num}",
            "injection.steps_per_round=6",
            "injection.checkpoint_steps=2",
            *overrides,
        ],
    )
    spec = read_card(Folder.at(data_url)).spec
    plans = []
    for r in range(num):
        torch.manual_seed(r)
        params = LightModel(recipe.encoders, spec, TRAINED).params()
        with publish(Folder.at(folder / f"aggregated-{r}"), "aggregated", 1) as out:
            encoders = {n: p for n, p in params.items() if n.startswith("encoders.")}
            out.write_tensors("encoders.safetensors", encoders)
        plan = InjectionPlan(
            recipe=recipe,
            tasks=tuple(task.id for task in TRAINED),
            round_index=r,
            aggregated_url=str(folder / f"aggregated-{r}"),
            previous_url=str(folder / f"injected-{r - 1}") if r else None,
            out_url=str(folder / f"injected-{r}"),
        )
        plans.append(plan)
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


ROUNDS = """
import sys
from pathlib import Path
from fedkim_ray.injection.worker import InjectionWorker
from tests.injection.plans import plan_rounds
folder, data_url, num, *overrides = sys.argv[1:]
plans = plan_rounds(Path(folder), data_url, int(num), *overrides)
worker = InjectionWorker(plans[0].recipe, plans[0].tasks, rank=0)
for plan in plans:
    worker.train(plan, print)
"""


def train_in_a_process(
    folder: Path, data_url: str, num: int, *overrides: str, **environment: str
) -> None:
    """Plan rounds and train them in a process of their own, without Ray."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", ROUNDS, str(folder), data_url, str(num), *overrides],
        env={**os.environ, **alone, "MASTER_PORT": "29533", **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
