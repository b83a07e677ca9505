"""``fedkim data import paper``: all twelve tasks from one folder, under the paper's recipe."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from typer.testing import CliRunner

from fedkim_ray.bundle.read import load_bundle
from fedkim_ray.cli.data import app
from fedkim_ray.cli.main import app as main_app
from fedkim_ray.config import Recipe
from fedkim_ray.data.checking import check_root
from fedkim_ray.data.importing.paper import find_downloads
from fedkim_ray.data.loading import collate, load_samples
from fedkim_ray.data.root import read_card
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.errors import DataError
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.storage import Folder
from fedkim_ray.types import Task

from .imported import KEY
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
    (folder.parent / "key").write_text(KEY)
    command = ["import", "paper", "--src", str(downloads), "--dst", str(folder)]
    command += ["-o", "size_px=32", "--workers", "1", "--key", str(folder.parent / "key")]
    result = CliRunner().invoke(app, [*command, "--test-share", "0.2", "--public-share", "0.2"])
    assert result.exit_code == 0, result.output
    return folder


FEW_STEPS = [
    "base={name: tiny-random, dtype: float32}",
    "federation.rounds=1",
    "federation.execution=local",
    "federation.local.batch_size=16",
    "injection.steps_per_round=4",
    "injection.num_workers=1",
    "injection.use_gpu=false",
    "injection.cpus_per_worker=0.5",
    "injection.threads_per_worker=1",
    "evaluation={bootstrap_samples: 20, max_new_tokens: 2, batch_size: 8}",
]
"""The paper's recipe on a random model of 0.1 M parameters and without a GPU."""


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
def test_each_task_is_encoded_by_the_papers_encoders(root: Path, task: Task) -> None:
    card = read_card(Folder.at(root))
    examples = load_samples(Folder.at(root) / f"test/{task.id}", card.spec)
    torch.manual_seed(0)
    model = LightModel(recipe(root).encoders, card.spec, TASKS)
    batch = collate(list(examples)[:4], card.spec)
    encoded = model.encode(batch)
    assert set(encoded) == set(model.groups_of(task))
    if task.kind == "yes_no":
        logits = model.logits(encoded, task, batch.rows_of(task.id), batch.size)
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


@pytest.mark.parametrize(
    "task", [task for task in TASKS if task.role == "train"], ids=lambda task: task.id
)
def test_a_client_learns_each_trained_task(root: Path, task: Task) -> None:
    card = read_card(Folder.at(root))
    client = next(c for c in card.clients if task.id in card.tasks_of(c))
    examples = load_samples(Folder.at(root) / f"clients/{client}/{task.id}/train", card.spec)
    batch = collate(list(examples)[:8], card.spec)
    labels = torch.tensor([float(e.label or 0) for e in batch.examples])
    torch.manual_seed(0)
    model = LightModel(recipe(root).encoders, card.spec, TASKS)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(16):
        logits = model.logits(model.encode(batch), task, batch.rows_of(task.id), batch.size)
        loss = binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.ray
@pytest.mark.slow
def test_the_papers_recipe_runs_to_an_evaluated_bundle(
    root: Path, tmp_path: Path, ray_cluster: None
) -> None:
    command = ["run", "paper", "--out", str(tmp_path / "run")]
    for override in (f"data.root={root}", *SMALL, *FEW_STEPS):
        command += ["--set", override]
    result = CliRunner().invoke(main_app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    run = Folder.at(tmp_path / "run")
    report = run.read_json("evaluation/report.json")
    assert {task["task"]: task["role"] for task in report["tasks"]} == {t.id: t.role for t in TASKS}
    assert all(task["num_questions"] > 0 for task in report["tasks"])
    facts = load_bundle((run / "bundle").url).facts
    assert facts.injection.m3oe.num_experts == 12
