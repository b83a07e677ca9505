"""``fedkim data import paper``: all twelve tasks from one folder, under the paper's recipe."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fedkim_ray.cli.data import app
from fedkim_ray.config import Recipe, load_recipe
from fedkim_ray.data.checking import check_root
from fedkim_ray.data.importing.paper import find_downloads
from fedkim_ray.data.loading import collate, load_samples
from fedkim_ray.data.root import read_card
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder

from .shipped_paper import write_paper

SMALL = [
    "encoders.image={dim: 16, depth: 1, num_heads: 2, patch_px: 16}",
    "encoders.signal={dim: 16, channels: 8, num_tokens: 4}",
    "encoders.series={dim: 16, num_heads: 2}",
]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("downloads")
    write_paper(folder)
    return folder


@pytest.fixture(scope="module")
def root(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported") / "root"
    command = ["import", "paper", "--src", str(downloads), "--dst", str(folder)]
    command += ["-o", "size_px=32", "--workers", "1", "--key", str(folder.parent / "key")]
    result = CliRunner().invoke(app, [*command, "--test-share", "0.2", "--public-share", "0.2"])
    assert result.exit_code == 0, result.output
    return folder


def recipe(root: Path) -> Recipe:
    """The paper's, with encoders that are trained in a second."""
    return load_recipe("paper", [f"data.root={root}", *SMALL])


def test_all_twelve_tasks_are_there(root: Path) -> None:
    card = read_card(Folder.at(root))
    assert check_root(Folder.at(root)) == []
    assert len(card.sources) == 8
    assert len(card.clients) == 5
    assert all(card.num_examples(f"test/{task.id}/") > 0 for task in TASKS)
    for task in TASKS:
        trained = card.num_examples(f"public/{task.id}/") > 0
        assert trained == (task.role == "train"), task.id
    width = sum(len(series.features) for series in card.spec.series.values())
    assert width == 48


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)
def test_each_task_is_encoded_by_the_papers_encoders(root: Path, task: object) -> None:
    (found,) = [each for each in TASKS if each is task]
    card = read_card(Folder.at(root))
    examples = load_samples(Folder.at(root) / f"test/{found.id}", card.spec)
    torch.manual_seed(0)
    model = LightModel(recipe(root).encoders, card.spec, TASKS)
    batch = collate(list(examples)[:4], card.spec)
    encoded = model.encode(batch)
    assert set(encoded) == set(model.groups_of(found))
    if found.kind == "yes_no":
        logits = model.logits(encoded, found, batch.rows_of(found.id), batch.size)
        assert torch.isfinite(logits).all()
        assert len(logits) == batch.size


def test_what_a_download_lacks_is_said(downloads: Path, tmp_path: Path) -> None:
    (tmp_path / "rsna").mkdir()
    (download,) = find_downloads(str(tmp_path), {})
    assert download.problems[0].startswith("no file 'stage_2_detailed_class_info.csv'")
    result = CliRunner().invoke(app, ["import", "paper", "--check", "--src", str(tmp_path)])
    assert result.exit_code == 1
    assert "slake: no folder" in result.output
    result = CliRunner().invoke(app, ["import", "paper", "--check", "--src", str(downloads)])
    assert result.exit_code == 0, result.output
    with pytest.raises(DataError, match="holds none of the paper's data sets"):
        find_downloads(str(tmp_path / "rsna"), {})
    with pytest.raises(DataError, match="has an option window_s"):
        find_downloads(str(downloads), {"window_s": 3})


@pytest.mark.ray
def test_the_papers_recipe_runs_on_them(root: Path, tmp_path: Path) -> None:
    """One round and the evaluation of every task, with a random language model of no knowledge."""
    command = [str(Path(sys.executable).parent / "fedkim"), "run", "paper", "--out", str(tmp_path)]
    few = [
        f"data.root={root}", "base={name: tiny-random, dtype: float32}", *SMALL,
        "federation.rounds=1", "federation.execution=local",
        "injection.m3oe.target_modules=attention_mlp",
        "injection.steps_per_round=4", "injection.num_workers=1", "injection.use_gpu=false",
        "injection.cpus_per_worker=0.5", "injection.threads_per_worker=1", "injection.zero_stage=1",
        "evaluation={bootstrap_samples: 50, max_new_tokens: 2}",
    ]  # fmt: skip
    for value in few:
        command += ["--set", value]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert all(task.id in said for task in TASKS), said
