"""A run submitted to a head with token authentication, stopped, and gone on with."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray
FEDKIM = Path(sys.executable).parent / "fedkim"
FEW_STEPS = ["--set", "injection.steps_per_round=4", "--set", "federation.local.epochs=1"]
FEW_STEPS += ["--set", "federation.execution=local"]  # injection's workers are Ray's all the same


def fedkim(
    environment: dict[str, str], *arguments: str | Path, exit_code: int = 0
) -> subprocess.CompletedProcess[str]:
    command = [str(a) for a in (FEDKIM, *arguments)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done


def until_round(environment: dict[str, str], submission_id: str, rounds: int) -> dict[str, object]:
    """Wait until a job has finished so many rounds."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        facts = json.loads(fedkim(environment, "status", submission_id, "--json").stdout)
        assert facts["exit_code"] is None, facts
        if facts["rounds_done"] >= rounds:
            return facts
        time.sleep(1)
    raise AssertionError(facts)


def test_submit_abort_resume_and_wait(head: dict[str, str], tiny_root: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sets = ["--set", f"data.root={tiny_root}", *FEW_STEPS]
    said = fedkim(head, "submit", "tiny", "--out", run, *sets, "--no-evaluate", "--json").stdout
    first = json.loads(said)["submission_id"]
    assert until_round(head, first, rounds=1)["rounds"] == 2

    fedkim(head, "job", "abort", "last")
    deadline = time.monotonic() + 60
    while (facts := json.loads(fedkim(head, "job", "status", first, "--json").stdout))[
        "status"
    ] != "STOPPED":
        assert time.monotonic() < deadline, facts
        time.sleep(1)
    assert facts["exit_code"] != 0
    assert facts["bundle"] is None
    uploaded = {path.name for path in Path("/tmp/ray/session_latest").rglob("*.parquet")}
    assert uploaded == set(), "data were uploaded"

    done = fedkim(head, "job", "resume", first, "--wait", "--no-evaluate")
    assert "Round 2: injected" in done.stderr
    assert (run / "bundle/manifest.json").exists()
    jobs = json.loads(fedkim(head, "job", "list", "--json").stdout)
    assert [job["status"] for job in jobs] == ["SUCCEEDED", "STOPPED"]
    assert {job["run"] for job in jobs} == {str(run)}


def test_wait_ends_with_the_runs_own_exit_code(head: dict[str, str], tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    done = fedkim(
        head, "submit", "tiny", "--out", tmp_path / "run", "--wait",
        "--set", f"data.root={absent}", exit_code=2,
    )  # fmt: skip
    assert "There is no data root" in " ".join(done.stderr.split())


def test_a_user_without_the_token_is_told_so(head: dict[str, str], tmp_path: Path) -> None:
    stranger = head | {"HOME": str(tmp_path)}
    del stranger["RAY_AUTH_TOKEN"], stranger["RAY_AUTH_MODE"]
    done = fedkim(stranger, "job", "list", exit_code=2)
    assert "RAY_AUTH_TOKEN" in done.stderr
    known = stranger | {"RAY_AUTH_TOKEN": head["RAY_AUTH_TOKEN"]}
    fedkim(known, "job", "list")  # the token alone is enough: the mode is turned on for them
