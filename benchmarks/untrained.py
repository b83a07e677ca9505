"""Write a bundle of untrained weights: the sizes of a recipe's bundle within a minute.

    python -m benchmarks.untrained OUT --recipe demo --data ROOT

How fast a bundle answers depends on its shapes and its base model, not on what it has learnt; how
long its generated answers are does, so benchmarks of words let each run to its last token.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fedkim_ray.bundle.write import write_bundle
from fedkim_ray.data.root import read_card
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.injection.base_model import load_base
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.round_files import publish_round
from fedkim_ray.injection.step_log import StepLog
from fedkim_ray.injection.training import InjectionState
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.storage import Folder

LORA_B_STD = 0.01
"""Zeros at the start of training; some numbers, so that nothing computes with zeros alone."""


def write_untrained(out: str, recipe_name: str, data_url: str) -> None:
    """Write the bundle that a recipe would, without the training.

    Args:
        out: URL of the bundle.
        recipe_name: The recipe.
        data_url: The data root, whose shapes the bundle takes.
    """
    recipe = load_recipe(recipe_name, [f"data.root={data_url}"])
    card = read_card(Folder.at(data_url))
    base = load_base(recipe.base.name, "float32")
    torch.manual_seed(0)
    tasks = {task.id: task for task in TASKS}
    model = InjectedModel(base, recipe.injection, recipe.encoders, card.spec, tasks)
    params = {n: p.detach().clone() for n, p in model.trained_parameters().items()}
    for name, value in params.items():
        if "lora_B" in name:
            value.normal_(std=LORA_B_STD)
    log = StepLog()
    log.add(0, [(task.id, 1.0) for task in TASKS if task.role == "train"])
    with TemporaryDirectory() as scratch:
        injected = Folder.at(Path(scratch, "injected"))
        state = InjectionState(params=params, moments={}, step=1)
        publish_round(injected, model, state, log, base.fingerprint)
        write_bundle(Folder.at(out), injected, recipe, card, TASKS, card.clients)


def main() -> None:
    """Write the bundle that the options name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--data", required=True, help="data root whose shapes the bundle takes")
    options = parser.parse_args()
    write_untrained(options.out, options.recipe, options.data)


if __name__ == "__main__":
    main()
