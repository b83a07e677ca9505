"""`fedkim run --dry-run`, `status` and `abort`, in this process."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedkim_ray.cli import dry_run
from fedkim_ray.cli.main import app
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.run_folder import RunFolder


def say(*arguments: str | Path) -> str:
    """Run a command that succeeds and return what it said."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_a_dry_run_tells_who_trains_what_where_and_writes_nothing(
    tiny_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    sets = ["data.root=" + tiny_root, "federation.client_selector={south: {site: south}}"]
    options = [option for value in sets for option in ("--set", value)]
    out = tmp_path / "run"
    facts = json.loads(say("run", "tiny", "--out", out, *options, "--dry-run", "--json"))
    assert not out.exists()
    north, south = facts["clients"]
    assert north["tasks"] == {"covid19": 48, "ecg_abnormal": 48, "lung_opacity": 48}
    assert "encoders.image" in north["groups"]
    assert "encoders.image" not in south["groups"]
    assert south["bytes_up"] < south["bytes_down"] == facts["num_parameters"] * 4
    # Both train, and both score before and after the injection.
    assert facts["bytes_down"] == (2 + 2 * 2) * south["bytes_down"]
    assert facts["bytes_up"] == north["bytes_up"] + south["bytes_up"]
    assert facts["where"] == {"north": "any node", "south": "site=south"}
    # Two clients and one injection worker of half a CPU each.
    assert facts["missing"] == ["Workers reserve 1.5 CPUs and this machine has 1: they take turns."]


@pytest.mark.parametrize(("has", "missing"), [(1, 1), (2, 0)])
def test_a_dry_run_counts_gpus(monkeypatch: pytest.MonkeyPatch, has: int, missing: int) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 9)
    monkeypatch.setattr("torch.cuda.device_count", lambda: has)
    recipe = load_recipe("tiny", ["injection.use_gpu=true", "injection.num_workers=2"])
    short = ["Workers reserve 2 GPUs and this machine has 1."]
    assert dry_run.missing(recipe, ["north"]) == short[:missing]


def test_a_dry_run_for_people(tiny_root: str) -> None:
    options = ["--set", f"data.root={tiny_root}", "--set", "federation.execution=pooled"]
    said = say("run", "tiny", *options, "--dry-run")
    assert "any of 2" in said
    assert "A round moves" in said


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that has only begun."""
    return RunFolder.create(str(tmp_path / "run"), load_recipe("tiny"))


def test_status_for_people_and_machines(run: RunFolder) -> None:
    run.log({"event": "round_started", "round": 0, "clients": ["a", "b"]})
    run.log({"event": "client_failed", "round": 0, "client": "a", "cause": "X", "message": "[3]"})
    url = run.folder.url
    assert json.loads(say("status", url, "--json"))["current_round"]["waiting"] == ["b"]
    said = say("status", url)
    assert "waited for: b" in said
    assert "a, round 0: X: [3]" in said


def test_status_shows_what_a_run_stopped_with(run: RunFolder) -> None:
    run.log({"event": "failed", "error": "Round 3 has nothing [/to average]."})
    said = say("status", run.folder.url)
    assert "[/to average]" in said


def test_abort_leaves_the_mark_and_says_when_nobody_answers(run: RunFolder) -> None:
    assert "no driver" in say("abort", run.folder.url, "--wait", "0")
    assert run.abort_requested()
