"""Bad input from the command line: one clear error, exit code 2, nothing harmed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FEDKIM = Path(sys.executable).parent / "fedkim"


def fedkim(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder of its own."""
    command = [str(a) for a in (FEDKIM, *arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["run", "tinny"], "no recipe 'tinny'"),
        (["run", "tiny", "--set", "federation.rouds=3"], "federation.rouds"),
        (["run", "tiny", "--set", "injection.zero_stage=4"], "injection.zero_stage"),
        (["run", "tiny", "--set", "data.root=nowhere"], "no data root at"),
        (["run", "--resume", "--out", "nowhere"], "no run at"),
        (["bundle", "verify", "nowhere"], "no published bundle"),
    ],
)
def test_one_clear_error_and_exit_code_2(arguments: list[str], names: str, tmp_path: Path) -> None:
    done = fedkim(*arguments, cwd=tmp_path)
    said = " ".join(done.stderr.split())
    assert done.returncode == 2, done.stderr
    assert names in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_impossible_run_is_refused_before_anything_is_written(
    tiny_root: str, tmp_path: Path
) -> None:
    for override, names in {
        "federation.min_clients=3": "min_clients is 3",
        "base.name=no/such-model": "no base model 'no/such-model'",
        "data.clients=[east]": "['east']",
    }.items():
        sets = ["--set", f"data.root={tiny_root}", "--set", override]
        done = fedkim("run", "tiny", *sets, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert names in " ".join(done.stderr.split())
        assert list(tmp_path.iterdir()) == []


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
