"""A node goes and comes back: the rounds go on without its client, and then with it again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("two_nodes.py")


@pytest.mark.ray
def test_rounds_go_on_without_a_removed_node_and_with_it_again(tiny_root: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, SCRIPT, tiny_root],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["where"] == {"north": "north", "south": "south"}  # each on the node of its label
    assert said["before"] == ["north", "south"]
    assert (said["while"], said["failures_1"]) == (["north"], {"ClientTimeout": 1})
    assert (said["available"], said["without"], said["failures_2"]) == (["north"], ["north"], {})
    assert (said["after"], said["failures_3"]) == (["north", "south"], {})
