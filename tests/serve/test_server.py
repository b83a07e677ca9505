"""Starting the service: what is refused before Ray starts; a real Ray is in `test_on_ray.py`."""

import socket
from pathlib import Path

import pytest

from fedkim_ray.errors import EnvironmentProblemError, StorageError
from fedkim_ray.storage import Folder
from serve.app import ServeArgs
from serve.server import run_server


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
