"""Bad input from the command line: one clear error, exit code 2, nothing harmed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.run_folder import RunFolder

FEDKIM = Path(sys.executable).parent / "fedkim"


def fedkim(
    *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder of its own."""
    command = [str(a) for a in (FEDKIM, *arguments)]
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def refused(done: subprocess.CompletedProcess[str], names: str) -> None:
    """Hold a command's end against the promise: one clear error, exit code 2, no traceback."""
    said = " ".join(done.stderr.split())
    assert done.returncode == 2, done.stderr
    assert names in said, said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["run", "tinny"], "no recipe 'tinny'"),
        (["run", "tiny", "--set", "federation.rouds=3"], "federation.rouds"),
        (["run", "tiny", "--set", "injection.zero_stage=4"], "injection.zero_stage"),
        (["run", "tiny", "--set", "data.root=nowhere"], "no data root at"),
        (["run", "--resume", "--out", "nowhere"], "no run at"),
        (["run", "--resume", "--out", "there", "--set", "seed=9"], "given '--set seed=9'"),
        (["run", "--resume", "--out", "there", "--variant", "fedkim"], "given '--variant fedkim'"),
        (["run", "--dry-run", "--out", "there", "--set", "seed=9"], "given '--set seed=9'"),
        (["bundle", "verify", "nowhere"], "no published bundle"),
        (["evaluate", "b", "--data", "d", "--base", "--workers", "2"], "--base and --workers"),
        (["evaluate", "b", "--data", "d", "--base", "--remove-experts"], "and --remove-experts"),
        (
            ["evaluate", "b", "--data", "d", "--workers", "2", "--remove-experts"],
            "--workers and --remove-experts",
        ),
        (
            ["evaluate", "b", "--data", "d", "--read", "generate", "--remove-experts"],
            "--read generate and --remove-experts",
        ),
        (["data", "join", "nowhere", "south", "--dst", "root"], "There is no dataset.json at"),
    ],
)
def test_one_clear_error_and_exit_code_2(arguments: list[str], names: str, tmp_path: Path) -> None:
    done = fedkim(*arguments, cwd=tmp_path)
    refused(done, names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_impossible_run_is_refused_before_anything_is_written(
    tiny_root: str, tmp_path: Path
) -> None:
    for override, names in {
        "federation.min_clients=3": "min_clients is 3",
        "base.name=no/such-model": "no base model 'no/such-model'",
        "data.clients=[east]": "['east']",
        "injection.m3oe.target_modules=[q_proj, wqkv]": "target_modules names ['wqkv']",
    }.items():
        sets = ["--set", f"data.root={tiny_root}", "--set", override]
        done = fedkim("run", "tiny", *sets, cwd=tmp_path)
        refused(done, names)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_truncated_table_is_refused_before_work_starts(tiny_root: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_root, root)
    cut = next((root / "public").rglob("*.parquet"))
    cut.write_bytes(cut.read_bytes()[:100])
    refused(fedkim("run", "tiny", "--set", f"data.root={root}", cwd=tmp_path), cut.name)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_run_of_another_recipe_or_format_goes_not_on(tiny_root: str, tmp_path: Path) -> None:
    run, root = tmp_path / "run", f"data.root={tiny_root}"
    RunFolder.create(str(run), load_recipe("tiny", [root]))
    before = {f: f.read_bytes() for f in run.iterdir()}
    again = ["run", "tiny", "--resume", "--out", run, "--set", root]
    refused(fedkim(*again, "--set", "seed=9", cwd=tmp_path), "another recipe: seed differ")
    refused(fedkim("run", "tiny", "--out", run, "--set", root, cwd=tmp_path), "a run at")
    assert {f: f.read_bytes() for f in run.iterdir()} == before

    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**facts, "format_version": 99}))
    refused(fedkim("run", "--resume", "--out", run, cwd=tmp_path), "format version 99")


@pytest.mark.slow
def test_a_bundle_with_a_changed_byte_is_refused(
    bundle_url: str, tiny_root: str, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(bundle_url, bundle)
    file = next(bundle.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for command in (
        ["bundle", "verify", bundle],
        ["evaluate", bundle, "--data", tiny_root],
        ["serve", bundle, "--no-auth"],
    ):
        refused(fedkim(*command, cwd=tmp_path), file.name)


@pytest.mark.slow
def test_a_ray_that_is_not_there_is_said(tiny_root: str, tmp_path: Path) -> None:
    sets = ["--set", f"data.root={tiny_root}"]
    nowhere = {**os.environ, "RAY_ADDRESS": "127.0.0.1:9"}
    refused(fedkim("run", "tiny", *sets, cwd=tmp_path, env=nowhere), "RAY_ADDRESS")


@pytest.mark.slow
def test_the_base_model_is_asked_with_the_same_questions(
    bundle_url: str, tiny_root: str, tmp_path: Path
) -> None:
    asked = ["evaluate", bundle_url, "--data", tiny_root, "--base", "--json"]
    done = fedkim(*asked, "--tasks", "covid19", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["variant"] == "base"
    # Images are not in its prompt, so it says the same to every one of them.
    assert report["tasks"][0]["metrics"]["auroc"]["value"] == 0.5
