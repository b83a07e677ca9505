"""The doctor's look at a real Ray: what is there, and what is said of what gives no answer."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.authentication.authentication_utils import is_token_auth_enabled

from fedkim_ray.doctor import ray_probe
from fedkim_ray.doctor.ray_probe import Probe, look_at_clients, look_at_nodes

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def probe_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module that the driver has, and no worker."""
    (tmp_path / "driver_only.py").write_text("class Probe:\n    def machine(self, address): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    import driver_only

    yield driver_only
    del sys.modules["driver_only"]


def test_a_label_that_no_node_has_places_nobody(
    monkeypatch: pytest.MonkeyPatch, tiny_root: str
) -> None:
    monkeypatch.setattr(ray_probe, "PLACE_TIMEOUT_S", 10.0)
    labels = {"south": {"site": "south"}}
    north, south = look_at_clients(["north", "south"], {}, labels, tiny_root, 1000, 60.0)
    assert (north.data_problem, north.readable_others) == ("", ("south",))
    assert (north.failed, south.failed) == ("", "placement")
    assert north.node
    assert south.node == ""


def test_a_mount_that_hangs_is_not_a_node_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, tiny_root: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray_probe, "ANSWER_TIMEOUT_S", 3.0)
    shutil.copytree(tiny_root, tmp_path / "data")
    [first, *_] = sorted((tmp_path / "data/clients/south").glob("**/*.parquet"))
    first.unlink()
    os.mkfifo(first)  # who opens it waits for a writer
    clients = ["north", "south"]
    north, south = look_at_clients(clients, {}, {}, str(tmp_path / "data"), 1000, 60.0)
    assert (north.failed, north.data_problem) == ("privacy", "")
    assert (south.failed, south.problem) == ("storage", "no answer in time")
    assert south.node


def test_a_node_that_is_gone_leaves_the_others_their_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = ray.nodes()
    gone = {**nodes[0], "NodeID": "a" * 56, "NodeManagerAddress": "10.0.0.9"}
    monkeypatch.setattr(ray, "nodes", lambda: [gone, *nodes])
    [here], [there] = look_at_nodes(None)
    assert here.machine.versions["ray"] == ray.__version__
    assert here.asks_token == is_token_auth_enabled()  # this process's Ray
    assert there.address == "10.0.0.9"
    assert there.problem


def test_a_node_without_the_project_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, probe_module: Any
) -> None:
    monkeypatch.setattr(ray_probe, "RemoteProbe", ray.remote(num_cpus=0)(probe_module.Probe))
    facts, [there] = look_at_nodes(None)
    assert facts == []
    assert "No module named 'driver_only'" in there.problem


def test_a_folder_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hangs(Probe):
        def leave_mark(self, url: str, name: str) -> str:
            import time

            time.sleep(60.0)
            return ""

    monkeypatch.setattr(ray_probe, "ANSWER_TIMEOUT_S", 3.0)
    monkeypatch.setattr(ray_probe, "RemoteProbe", ray.remote(num_cpus=0)(Hangs))
    [here], silent = look_at_nodes("/nfs/run")
    assert silent == []
    assert here.run_problem == "no answer in time"


def test_a_run_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, problem in [("new/run", ""), ("file/run", "NotADirectoryError")]:
        [here], _ = look_at_nodes(str(tmp_path / place))
        assert here.drives
        assert here.run_problem == problem
    assert os.listdir(tmp_path) == ["file"]
