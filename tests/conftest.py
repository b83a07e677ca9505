"""Fixtures that several folders share."""

import base64
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from fedkim_ray.bundle.write import write_bundle
from fedkim_ray.data.demo.tiny import SPEC, write_tiny_root
from fedkim_ray.data.root import read_card, write_card
from fedkim_ray.data.schema import sample_table, write_samples
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.injection.base_model import load_base
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.round_files import publish_round
from fedkim_ray.injection.step_log import StepLog
from fedkim_ray.injection.training import InjectionState
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.storage import Folder

from .own_data import write_own_data as write_own_data_


def pytest_sessionstart() -> None:
    """Hear Ctrl-C, and let child processes hear it, where a shell in the background ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave tests that start Ray to the end: a process in a cluster counts its metrics there."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is not None)


@pytest.fixture(scope="session")
def write_own_data() -> Callable[..., None]:
    """Write a made-up hospital's folder as the example mapping expects it."""
    return write_own_data_


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a small synthetic data root with two clients; do not write into it."""
    url = str(tmp_path_factory.mktemp("data") / "tiny")
    write_tiny_root(url)
    return url


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray of four logical CPUs, started once for all tests marked ``ray``."""
    import ray

    from serve.proxy_guard import PROXY_CALLBACK

    os.environ.setdefault(*PROXY_CALLBACK)  # Ray's processes have the environment of this moment
    ray.init(
        "local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=300 * 2**20,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def write_tiny_bundle(tiny_root: str) -> Callable[..., str]:
    """Write a bundle (folder, adapter, *overrides), return its URL; ``injected`` lies beside."""
    return lambda folder, adapter, *overrides: _write_tiny_bundle(
        folder, tiny_root, [f"injection.adapter={adapter}", *overrides]
    )


@pytest.fixture(scope="session")
def bundle_url(
    tmp_path_factory: pytest.TempPathFactory, write_tiny_bundle: Callable[..., str]
) -> str:
    """URL of a whole bundle of the random tiny model, made without DeepSpeed or Ray.

    Do not write into it.
    """
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle"), "m3oe")


def _write_tiny_bundle(folder: Path, data_url: str, overrides: list[str]) -> str:
    """Write a bundle of untrained weights, with experts that differ, and return its URL."""
    recipe = load_recipe("tiny", [f"data.root={data_url}", *overrides])
    card = read_card(Folder.at(data_url))
    base = load_base(recipe.base.name, recipe.base.dtype)
    torch.manual_seed(0)
    tasks = {task.id: task for task in TASKS}
    model = InjectedModel(base, recipe.injection, recipe.encoders, card.spec, tasks)
    params = {n: p.detach().clone() for n, p in model.trained_parameters().items()}
    for name, value in params.items():
        if "lora_B" in name:  # zero at the start of training: all experts and answers were alike
            value.normal_(std=0.5)
    log = StepLog()
    for step in range(3):
        losses = [(t.id, 1.0 - 0.1 * step) for t in TASKS if t.role == "train"]
        log.add(step, losses, torch.tensor([[0.5, 0.25, 0.25]]) if model.router else None)
    injected = Folder.at(folder / "injected")
    state = InjectionState(params=params, moments={}, step=3)
    publish_round(injected, model, state, log, base.fingerprint)
    bundle = Folder.at(folder / "bundle")
    write_bundle(bundle, injected, recipe, card, TASKS, card.clients)
    return bundle.url


NUMBERS = np.float32([3.1847293, -2.7391846, 1.9283746, -0.8172635])
"""Four values in a row that no honest file holds."""
WORDS = ("Zarathustra-Quellwasser-4711", "subject-kxq-88313", "sample-wvz-55027")


@dataclass(frozen=True)
class Canaries:
    """A data root whose client south has marks in its private data, and a search for them."""

    root: str

    def found_in(self, place: Path | bytes) -> set[str]:
        """Return the marks that some file under a folder, or some bytes, hold in any form."""
        if isinstance(place, bytes):
            return {name for name, form in marks() if form in place}
        found: set[str] = set()
        for file in place.rglob("*"):
            if file.is_file() and not file.is_symlink():
                with suppress(FileNotFoundError):  # logs rotate, sessions end
                    found |= self.found_in(file.read_bytes())
        return found


def marks() -> Iterator[tuple[str, bytes]]:
    """Give each mark as text, base64 in its three alignments, and as float32 and float64 bytes."""
    for word in WORDS:
        yield word, word.encode()
        for shift in range(3):
            # Without the characters that neighbours change at both ends.
            yield word, base64.b64encode(b"x" * shift + word.encode())[4:-4]
    for number in NUMBERS:
        yield f"text of {number}", f"{abs(number):.6f}".encode()
    for width in (np.float32, np.float64):
        raw = NUMBERS.astype(width).tobytes()
        yield f"{width.__name__} bytes", raw
        for shift in range(3):
            yield f"{width.__name__} base64", base64.b64encode(b"x" * shift + raw)[4:-4]


@pytest.fixture(scope="session")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Canaries:
    """A tiny data root with marks in every private row of client south's mortality task."""
    root = Folder.at(tmp_path_factory.mktemp("data") / "marked")
    card = write_tiny_root(root.url)
    for split in ("train", "valid"):
        name = f"clients/south/mortality/{split}/part-0.parquet"
        rows = pq.read_table(root.full(name)).to_pylist()
        for k, row in enumerate(rows):
            row |= {"question": WORDS[0], "subject_id": f"{WORDS[1]}-{split}-{k}"}
            row |= {"sample_id": f"{WORDS[2]}-{split}-{k}"}
            row["lab"] = np.resize(NUMBERS, SPEC.shape("lab")).astype(np.float32)
            row["lab_mask"] = np.ones(SPEC.shape("lab"), np.uint8)
            for other in ("vital", "input", "output"):
                for column in (other, f"{other}_mask"):
                    row[column] = np.asarray(row[column]).reshape(SPEC.shape(other))
        write_samples(root, name, sample_table(rows, SPEC))
    write_card(root, card.model_copy(update={"files": {}}))
    return Canaries(root.url)
