"""Starting the service: what is refused before Ray starts; a real Ray is in `test_on_ray.py`."""

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from fedkim_ray.errors import EnvironmentProblemError, StorageError
from fedkim_ray.storage import Folder
from serve.api import create_app
from serve.app import ServeArgs
from serve.gateway import Gateway
from serve.server import APP_NAME, _wait_until_ready, run_server
from serve.transformers_engine import TransformersEngine
from tests.serve.http_server import serving


def test_a_bundle_that_is_not_there_is_told_before_ray_starts(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no published bundle"):
        run_server(str(tmp_path / "none"), no_auth=True)


def test_a_changed_byte_in_the_bundle_is_told_too(bundle_url: str, tmp_path: Path) -> None:
    source, copy = Folder.at(bundle_url), Folder.at(tmp_path / "copy")
    for name in source.glob("**"):
        if source.fs.isfile(source.full(name)):
            copy.write_bytes(name, source.read_bytes(name))
    weights = bytearray(copy.read_bytes("components.safetensors"))
    weights[-1] ^= 1
    copy.write_bytes("components.safetensors", bytes(weights))
    with pytest.raises(StorageError, match="SHA-256"):
        run_server(copy.url, no_auth=True)


def test_a_stranger_needs_a_key(bundle_url: str) -> None:
    with pytest.raises(EnvironmentProblemError, match=r"'0.0.0.0' without API keys"):
        run_server(bundle_url, host="0.0.0.0", no_auth=True)
    with pytest.raises(EnvironmentProblemError, match="only where --no-auth says so"):
        run_server(bundle_url)
    with pytest.raises(ValueError, match="api_keys_file"):
        ServeArgs(bundle=bundle_url)


def test_a_wrong_option_is_told_before_ray_starts(bundle_url: str) -> None:
    for options in (
        {"rate_limit": "often"},
        {"engine_scaling": {"min_replicas": 2}},
        {"replica_selector": {"role": ""}},
    ):
        with pytest.raises(EnvironmentProblemError, match="cannot be used"):
            run_server(bundle_url, no_auth=True, **options)


def test_a_taken_port_is_named(bundle_url: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EnvironmentProblemError, match=f"127.0.0.1:{port} cannot be bound"):
            run_server(bundle_url, port=port, no_auth=True)


class Cluster:
    """A Ray that somebody has started, and what is done to it and to its Serve."""

    def __init__(self, serves: bool, apps: tuple[str, ...] = (), runs: bool = True) -> None:
        self.serves = serves
        self.apps = set(apps)
        self.runs = runs
        """Whether an app that is sent there starts."""
        self.done: list[str] = []

    def is_initialized(self) -> bool:
        """Say that Ray is there."""
        return True

    def get_actor(self, name: str, namespace: str) -> object:
        """Give Serve's controller where it runs."""
        if not self.serves:
            raise ValueError(name)
        return object()

    def status(self) -> Any:
        """Tell Serve's apps."""
        return SimpleNamespace(applications=dict.fromkeys(self.apps))

    def start(self, **options: Any) -> None:
        """Start Serve."""
        self.done.append("start")

    def run(self, app: object, name: str, route_prefix: str) -> None:
        """Deploy an app."""
        self.done.append("run")
        if not self.runs:
            raise RuntimeError("no room")
        self.apps.add(name)

    def delete(self, name: str) -> None:
        """End an app."""
        self.done.append("delete")
        self.apps -= {name}

    def shutdown(self) -> None:
        """End Serve, for this Ray is another's."""
        self.done.append("shutdown")


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cluster]:
    """Put a cluster in Ray's and Serve's place."""

    def join(**facts: Any) -> Cluster:
        cluster = Cluster(**facts)
        monkeypatch.setattr("serve.server.ray", cluster)
        monkeypatch.setattr("serve.server.ray_serve", cluster)
        monkeypatch.setattr("serve.server._wait_until_ready", lambda *_: None)
        return cluster

    return join


@pytest.mark.parametrize("apps", [(APP_NAME, "other"), ()])
def test_a_serve_that_somebody_has_is_neither_joined_nor_touched(
    join: Callable[..., Cluster], bundle_url: str, apps: tuple[str, ...]
) -> None:
    cluster = join(serves=True, apps=apps)
    with pytest.raises(EnvironmentProblemError, match=r"runs in this Ray already.*serve run"):
        run_server(bundle_url, port=0, no_auth=True)
    assert cluster.done == []


def test_what_was_begun_is_ended_and_nothing_twice(
    join: Callable[..., Cluster], bundle_url: str
) -> None:
    cluster = join(serves=False)
    with run_server(bundle_url, port=0, no_auth=True) as server:
        server.shutdown()
    assert cluster.done == ["start", "run", "delete", "shutdown"]


def test_an_app_that_does_not_start_is_taken_away(
    join: Callable[..., Cluster], bundle_url: str
) -> None:
    cluster = join(serves=False, runs=False)
    with pytest.raises(EnvironmentProblemError, match="no room"):
        run_server(bundle_url, port=0, no_auth=True)
    assert cluster.done == ["start", "run", "delete", "shutdown"]


def test_apps_that_others_have_brought_stay(join: Callable[..., Cluster], bundle_url: str) -> None:
    cluster = join(serves=False)
    with run_server(bundle_url, port=0, no_auth=True):
        cluster.apps.add("other")
    assert cluster.done == ["start", "run", "delete"]


def test_an_ipv6_address_stands_in_brackets_and_reaches_the_service(
    join: Callable[..., Cluster],
    bundle_url: str,
    engine: TransformersEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    join(serves=False)
    monkeypatch.setattr("serve.server._free_port", lambda host, port: 8000)  # where IPv6 is off
    with run_server(bundle_url, host="::1", port=0, no_auth=True) as server:
        assert server.url == "http://[::1]:8000"
    app = create_app(Gateway(engine), hosts=server.args.hosts)
    with TestClient(app) as web:
        headers = {"host": server.url.removeprefix("http://")}
        assert web.get("/v1/tasks", headers=headers).status_code == 200


@pytest.mark.parametrize("hosts", [("fedkim.example.org",), ("*.example.org",), ("*",), ()])
def test_a_service_that_answers_to_its_own_names_alone_is_found_ready(
    engine: TransformersEngine, hosts: tuple[str, ...]
) -> None:
    with serving(create_app(Gateway(engine), hosts=hosts)) as url:
        _wait_until_ready(url, hosts, timeout_s=5.0)


def test_a_service_that_never_answers_is_named() -> None:
    with pytest.raises(EnvironmentProblemError, match=r"127.0.0.1:9 did not answer within 0.1 s"):
        _wait_until_ready("http://127.0.0.1:9", (), timeout_s=0.1)
