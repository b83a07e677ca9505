"""A whole bundle of the random tiny model, made in a second without DeepSpeed or Ray."""

from pathlib import Path

import pytest
import torch

from fedkim_ray.bundle.read import LoadedBundle, load_bundle
from fedkim_ray.bundle.write import write_bundle
from fedkim_ray.config import Recipe, load_recipe
from fedkim_ray.data.root import read_card
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.injection.base_model import load_base
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.round_files import publish_round
from fedkim_ray.injection.training import InjectionState, StepLog
from fedkim_ray.storage import Folder


def tiny_recipe(data_url: str, adapter: str = "m3oe") -> Recipe:
    """The packaged recipe ``tiny`` on another data root."""
    return load_recipe("tiny", [f"data.root={data_url}", f"injection.adapter={adapter}"])


def write_tiny_bundle(folder: Path, data_url: str, adapter: str = "m3oe") -> str:
    """Write a bundle of untrained weights, with experts that differ, and return its URL."""
    recipe = tiny_recipe(data_url, adapter)
    card = read_card(Folder.at(data_url))
    base = load_base(recipe.base.name, recipe.base.dtype)
    torch.manual_seed(0)
    tasks = {task.id: task for task in TASKS}
    model = InjectedModel(base, recipe.injection, recipe.encoders, card.spec, tasks)
    params = {n: p.detach().clone() for n, p in model.trained_parameters().items()}
    for name, value in params.items():
        if "lora_B" in name:  # zero at the start of training: experts would not matter
            value.normal_(std=0.1)
    log = StepLog()
    for step in range(3):
        log.add(step, [(t.id, 1.0 - 0.1 * step) for t in TASKS if t.role == "train"])
    injected = Folder.at(folder / "injected")
    state = InjectionState(params=params, moments={}, step=3)
    publish_round(injected, model, state, log, base.fingerprint)
    bundle = Folder.at(folder / "bundle")
    write_bundle(bundle, injected, recipe, card, TASKS, card.clients)
    return bundle.url


@pytest.fixture(scope="session")
def bundle_url(tmp_path_factory: pytest.TempPathFactory, tiny_root: str) -> str:
    """URL of a tiny bundle; do not write into it."""
    return write_tiny_bundle(tmp_path_factory.mktemp("evaluation"), tiny_root)


@pytest.fixture(scope="session")
def bundle(bundle_url: str) -> LoadedBundle:
    """The tiny bundle in memory."""
    return load_bundle(bundle_url)
