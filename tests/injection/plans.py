"""Rounds of injection on the tiny recipe, as a run would plan them."""

from pathlib import Path

import torch

from fedkim_ray.data.root import read_card
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.encoders.bundle import LightModel
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
