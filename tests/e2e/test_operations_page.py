"""The operator's page is followed word by word: the blocks of its first chapter, in one shell.

The shell has namespaces of its own for processes, network and mounts: the page's ports are free,
``ray stop`` finds this Ray alone, and nothing outlives the shell. Debian's Prometheus is real.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import installed

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.prometheus]
ROOT = Path(__file__).parents[2]
APART = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork"]
APART += ["--mount-proc", "--kill-child"]
BEFORE = """
set -Eeuo pipefail -o monitor
ip link set lo up
mkdir -p /tmp/ray
mount -t tmpfs tmpfs /tmp/ray
"""
"""A careful, interactive shell's settings, and a Ray folder and a loopback of its own."""
EMPTY_HERE = {"GPU busy", "GPU memory", "Folded adapters"}
"""Panels of a GPU and of the vLLM engine."""
DOMINATED = {"Answers by expert that has more than half the weight", "An expert dominates"}
MAY_BE_EMPTY = {"Missed rounds", "Failed runs", "Refused", *DOMINATED}
"""Panels of what need not happen: the lost node may be back before it is missed."""


def blocks() -> str:
    """Return the shell lines of the chapter."""
    page = (ROOT / "docs/operations.md").read_text()
    [chapter] = re.findall(r"^## From nothing .*?(?=^## )", page, re.MULTILINE | re.DOTALL)
    return "\n".join(re.findall(r"^    (.*)$", chapter, re.MULTILINE))


@pytest.mark.timeout(900)
def test_a_person_who_follows_the_page_gets_there(tmp_path: Path) -> None:
    installed("prometheus")
    if subprocess.run([*APART, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make namespaces")
    for name in ("cluster", "serve", "fedkim_ray", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    home = tmp_path / "home"
    home.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT)}
    with (tmp_path / "said.txt").open("w") as sink:
        done = subprocess.run(
            [*APART, "bash", "-c", BEFORE + blocks()],
            env=environment,
            cwd=tmp_path,
            stdout=sink,
            stderr=sink,
            timeout=850,
            check=False,
        )
    said = (tmp_path / "said.txt").read_text()
    assert done.returncode == 0, said[-5000:]
    without = set(re.findall(r"^  no data  (.*)$", said, re.MULTILINE))
    assert EMPTY_HERE <= without <= EMPTY_HERE | MAY_BE_EMPTY
    assert "all were answered" in said
