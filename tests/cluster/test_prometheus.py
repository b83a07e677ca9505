"""A real Prometheus scrapes a live federation and a live endpoint; every panel has data.

Both are the tiny ones, on synthetic data; one of the two clients has a broken file and fails.
"""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from fedkim_ray.recipe_files import load_recipe
from tests.cluster.conftest import MONITORING, RULES, installed, panel_queries, panel_targets, rules

pytestmark = [pytest.mark.prometheus, pytest.mark.ray]
NOT_HERE = {
    "ray_node_gpus_utilization": "needs a GPU",
    "ray_node_gram": "needs a GPU",
    "ray_fedkim_run_failures_total": "needs a run that fails",
    "ray_fedkim_late_updates_total": "needs a client that outlives its round",
    "ray_fedkim_adapter_requests_total": "is the vLLM engine's",
}
"""Metrics that this machine or this run cannot have: their queries must parse, no more."""
FEW_STEPS = ["injection.steps_per_round=4", "federation.local.epochs=1"]
ASK_S = 25.0
"""Ray exports every ten seconds: questions go on for longer than two of these."""


@dataclass
class Prometheus:
    """A running server."""

    url: str

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return an instant query's samples; an error of the server fails the test."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, trust_env=False)
        body = answer.json()
        assert body["status"] == "success", f"{query}: {body}"
        return list(body["data"]["result"])


@pytest.fixture(scope="module")
def prometheus(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with the project's own configuration, asked to look every second."""
    binary = installed("prometheus")
    home = tmp_path_factory.mktemp("prometheus")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [binary, f"--config.file={_configuration(home)}", f"--storage.tsdb.path={home}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (home / "said.txt").open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + 30
        while not _ready(server.url):
            assert process.poll() is None, (home / "said.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def _configuration(home: Path) -> Path:
    """Write the packaged configuration with this Ray's exporters, a faster clock, whole paths."""
    from serve.app import exporter_urls

    targets = [url.removeprefix("http://").removesuffix("/metrics") for url in exporter_urls()]
    (home / "nodes.json").write_text(json.dumps([{"targets": targets}]))
    config = yaml.safe_load((MONITORING / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(file) for file in RULES]
    for job in config["scrape_configs"]:
        job["file_sd_configs"] = [{"files": [str(home / "nodes.json")]}]
    config["scrape_configs"] = config["scrape_configs"][:1]  # the same nodes under either job
    path = home / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def watched(
    prometheus: Prometheus, tiny_root: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Prometheus after it has seen a federation run, and an endpoint that still answers."""
    from fedkim_ray.pipeline import run_recipe
    from fedkim_ray.run_folder import RunFolder
    from serve.server import run_server

    root = tmp_path_factory.mktemp("watched") / "data"
    shutil.copytree(tiny_root, root)
    next(root.glob("clients/south/*/train/*.parquet")).write_bytes(b"broken")
    recipe = load_recipe("tiny", [f"data.root={root}", *FEW_STEPS])
    run = RunFolder.create(str(root.parent / "run"), recipe)
    run_recipe(run, lambda event: None)
    options = {"samples": tiny_root, "engine_cpus": 0.5}
    with run_server(run.bundle.url, port=0, no_auth=True, **options) as server:
        _ask_for_a_while(server.url)
        yield prometheus


def _ask_for_a_while(url: str) -> None:
    """Ask yes/no questions, have words generated, and be refused."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as web:
        deadline = time.monotonic() + ASK_S
        tasks = ("covid19", "mortality", "slake_vqa", "med_vqa")
        found = {t: web.get(f"/v1/samples/{t}-0").json()["input"] for t in tasks}
        while time.monotonic() < deadline:
            for task, given in found.items():
                answer = web.post(f"/v1/tasks/{task}/predict", json={"inputs": [given]})
                assert answer.status_code == 200, answer.text
            assert web.post("/v1/tasks/none/predict", json={"inputs": [{}]}).status_code >= 400
            time.sleep(0.3)


def test_every_panel_has_data_and_every_alert_parses(watched: Prometheus) -> None:
    deadline = time.monotonic() + 40
    empty = {name: query for name, query in panel_queries().items() if not _elsewhere(query)}
    while empty and time.monotonic() < deadline:
        empty = {n: q for n, q in empty.items() if not watched.ask(q.removesuffix(" > 0"))}
        time.sleep(2)
    assert empty == {}
    for name, target in panel_targets().items():
        labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        for sample in watched.ask(target["expr"]):
            assert labels <= sample["metric"].keys(), f"{name}: {sample['metric']}"
    for rule in rules("alert"):
        watched.ask(rule["expr"])


def test_the_numbers_are_the_runs(watched: Prometheus) -> None:
    [rounds] = watched.ask("max(ray_fedkim_round_index)")
    assert rounds["value"][1] == "2"
    [steps] = watched.ask("sum(ray_fedkim_injection_steps_total)")
    assert steps["value"][1] == "8"
    [failing] = watched.ask("sum by (client) (ray_fedkim_client_failures_total)")
    assert failing["metric"] == {"client": "south"}
    [active] = watched.ask("max(ray_fedkim_run_active)")
    assert active["value"][1] == "0"


def test_the_rules_are_loaded_and_well(watched: Prometheus) -> None:
    groups = httpx.get(f"{watched.url}/api/v1/rules", trust_env=False).json()["data"]["groups"]
    loaded = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in loaded} == {
        *(rule["alert"] for rule in rules("alert")),
        *(rule["record"] for rule in rules("record")),
    }
    assert [rule["name"] for rule in loaded if rule["health"] == "err"] == []


def _elsewhere(query: str) -> bool:
    return any(name in query for name in NOT_HERE)
