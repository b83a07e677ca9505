"""A Ray head as an operator starts it."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

BIN = Path(sys.executable).parent
ADDRESS = "http://127.0.0.1:8299"
"""Where the head takes jobs."""
GCS = "127.0.0.1:6399"
"""Where it takes drivers."""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A head with token authentication; gives the environment of a user who may use it.

    ``--block`` keeps its processes in one group, which ends without touching another Ray.
    """
    user = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    environment = os.environ | user | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    environment.pop("RAY_ADDRESS", None)
    environment["RAY_raylet_start_wait_time_s"] = "180"  # the machine may be busy
    command = [BIN / "ray", "start", "--head", "--block", "--port=6399", "--dashboard-port=8299"]
    # The agent that starts jobs has a fixed port, which another Ray on this machine may hold.
    command += ["--dashboard-agent-listen-port=52399"]
    command += ["--num-cpus=4", "--object-store-memory=300000000", "--disable-usage-stats"]
    log = tmp_path_factory.mktemp("head") / "said.txt"
    with log.open("w") as sink:
        process = subprocess.Popen(
            command, env=environment, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        _wait_until_up(process, log)
        yield environment | {"RAY_ADDRESS": ADDRESS}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _wait_until_up(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            httpx.get(f"{ADDRESS}/api/version", trust_env=False)
            return
        except httpx.HTTPError:
            time.sleep(0.3)
    raise AssertionError(f"the head did not start: {log.read_text()}")
