"""The tiny recipe from the command line, killed and resumed, and submitted as a Ray job."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fedkim_ray.storage import Folder
from tests.e2e.conftest import GCS

BIN = Path(sys.executable).parent
QUICKEST = ("federation.execution=local", "injection.workers=whole_run")
"""Fewest processes, and by promise the same numbers."""
PHASES = ("round_started", "injection_step", "injected")
"""What a driver says while clients train, while it injects, and before their next round."""
FEW_STEPS = ["--set", "injection.steps_per_round=4", "--set", "federation.local.epochs=1"]


@dataclass
class Run:
    """A `fedkim run` of the tiny recipe in a process of its own."""

    process: subprocess.Popen[bytes]
    said: Path

    def finish(self, exit_code: int = 0, timeout_s: float = 300.0) -> str:
        """Wait for the end and return what the run said."""
        code = self.process.wait(timeout_s)
        assert code == exit_code, self.said.read_text()
        return self.said.read_text()

    def wait_for(self, file: Path, words: str = "", timeout_s: float = 240.0) -> None:
        """Wait until the run has written a file, and these words into it."""
        deadline = time.monotonic() + timeout_s
        while not file.exists() or words not in file.read_text():
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < deadline, f"{file} did not get {words!r}"
            time.sleep(0.1)

    def kill(self) -> None:
        """End the driver without a word to anybody."""
        self.process.kill()
        self.process.wait()


def start(
    run: Path, root: str | None = None, *overrides: str, env: dict[str, str] | None = None
) -> Run:
    """Start `fedkim run` on the tiny recipe, or resume where no root is given.

    The root is given relative to a working folder that Ray's workers do not share.
    """
    where = Path(root) if root else run
    command = [BIN / "fedkim", "run", "--out", run, "--no-evaluate"]
    command += ["tiny", "--set", f"data.root={where.name}", *FEW_STEPS] if root else ["--resume"]
    command += [word for override in overrides for word in ("--set", override)]
    said = run.with_suffix(".txt")
    with said.open("w") as sink:
        return Run(
            subprocess.Popen(
                command, stdout=sink, stderr=subprocess.STDOUT, cwd=where.parent, env=env
            ),
            said,
        )


def last_params(run: Path) -> dict[str, torch.Tensor]:
    return Folder.at(run / "rounds/0001/injected").read_tensors("params.safetensors")


@pytest.mark.ray
def test_a_driver_killed_in_every_phase_resumes_to_the_same_numbers(
    tiny_root: str, tmp_path: Path, head: dict[str, str]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    start(whole, tiny_root, *QUICKEST).finish()

    cluster = head | {"RAY_ADDRESS": GCS}  # the same one each time: it must be free for the next
    for phase in PHASES:
        run = start(killed, root=None if killed.exists() else tiny_root, env=cluster)
        run.wait_for(killed / "log.jsonl", f'"event": "{phase}", "round": 0')
        run.kill()
    assert not (killed / "bundle/manifest.json").exists()
    start(killed, env=cluster).finish()

    expected, came = last_params(whole), last_params(killed)
    assert came.keys() == expected.keys()
    assert all(torch.equal(came[name], expected[name]) for name in expected)


def interrupt(run: Run, _: Path) -> None:
    """Press Ctrl-C."""
    run.process.send_signal(signal.SIGINT)


def abort(_: Run, out: Path) -> None:
    """Ask from another process, which waits until the driver has heard it."""
    asked = subprocess.run(
        [BIN / "fedkim", "abort", out], capture_output=True, text=True, timeout=90, check=True
    )
    assert "Go on with: fedkim run --resume" in asked.stdout


@pytest.mark.ray
@pytest.mark.parametrize(
    ("end", "told"),
    [(interrupt, "Interrupted. What was published is kept"), (abort, "was aborted")],
)
def test_a_run_that_is_ended_keeps_what_was_published(
    end: Callable[[Run, Path], None], told: str, tiny_root: str, tmp_path: Path
) -> None:
    run = start(tmp_path / "run", root=tiny_root)
    published = tmp_path / "run/rounds/0000/aggregated/manifest.json"
    run.wait_for(published)
    end(run, tmp_path / "run")
    said = run.finish(exit_code=130, timeout_s=60)
    assert "Traceback" not in said
    assert said.count(told) == 1
    assert published.exists()


@pytest.mark.ray
def test_the_same_run_as_a_ray_job(tiny_root: str, tmp_path: Path, head: dict[str, str]) -> None:
    run = tmp_path / "run"
    entrypoint = [BIN / "fedkim", "run", "tiny", "--out", run, "--no-evaluate", "--json"]
    entrypoint += ["--set", f"data.root={tiny_root}", *FEW_STEPS]
    command = [BIN / "ray", "job", "submit", "--", *map(str, entrypoint)]
    done = subprocess.run(
        command, env=head, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    status = subprocess.run(
        [BIN / "fedkim", "status", run, "--json"], capture_output=True, text=True, check=True
    )
    facts = json.loads(status.stdout)
    assert (facts["rounds_done"], facts["rounds"]) == (2, 2)
    assert facts["bundle"]
