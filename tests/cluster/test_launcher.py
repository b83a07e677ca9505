"""The launcher's files against Ray's own schema and rules."""

import re
import tomllib
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

from tests.cluster.manifests import ROOT

FILES = sorted((ROOT / "cluster/ray").glob("*.yaml"))
WORKER_PORTS = range(10002, 20000)
"""Ray's workers take these."""


def read(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROOT / "cluster/ray" / name).read_text())
    return values


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_ray_takes_the_file(file: Any) -> None:
    validate_config(prepare_config(yaml.safe_load(file.read_text())))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_fixed_ports_lie_outside_the_workers_range(file: Any) -> None:
    ports = [int(port) for port in re.findall(r"-port=(\d+)", file.read_text())]
    assert ports
    assert not [port for port in ports if port in WORKER_PORTS]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_ray_start_has_every_option_that_a_file_gives_it(file: Any) -> None:
    known = {option for parameter in start.params for option in parameter.opts}
    named = re.findall(r"(?<= )--[a-z-]+", " ".join(_starts(read(file.name))))
    assert named
    assert set(named) <= known


def _starts(config: dict[str, Any]) -> list[str]:
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    return [command for command in commands if "ray start" in command]


# A login shell forgets the image's PATH: Ray is named whole, and hands its own folder on.
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_commands_find_ray_and_jobs_find_fedkim_in_a_login_shell(file: Any) -> None:
    config = read(file.name)
    for kind in ("head_start_ray_commands", "worker_start_ray_commands"):
        stop, begin = config[kind]
        assert stop == "/opt/fedkim/bin/ray stop"
        assert re.match(r"PATH=/opt/fedkim/bin:\$PATH (\S+=\S+ )*/opt/fedkim/bin/ray start ", begin)


def test_the_image_in_the_cloud_has_what_the_launcher_calls_in_it() -> None:
    docker = (ROOT / "cluster/docker/Dockerfile").read_text()
    assert read("aws.yaml")["docker"]["image"].startswith("registry.example.org/fedkim-ray:")
    [packages] = re.findall(r"apt-get install -y --no-install-recommends (.*) \\", docker)
    assert {"rsync", "openssh-client"} <= set(packages.split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["aws"] == ["boto3"]


def test_the_machines_on_the_spot_become_one_head_and_three_workers() -> None:
    config = prepare_config(read("on-premise.yaml"))
    [node_type] = config["available_node_types"].values()
    assert node_type["max_workers"] == 3
    starts = _starts(config)
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert ["--labels-file" in command for command in starts] == [False, True]


def test_each_site_in_the_cloud_has_its_pin_and_the_head_takes_no_work() -> None:
    types = read("aws.yaml")["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert types["site-a"]["resources"]["site_a"] == types["site-b"]["resources"]["site_b"] == 1
    assert [types[name]["labels"] for name in ("site-a", "site-b", "injection")] == [
        {"site": "site-a"},
        {"site": "site-b"},
        {"role": "injection"},
    ]
    assert types["injection"]["min_workers"] == 0
