"""Starting the service: what is refused before Ray starts, and the whole of it on a real Ray."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from fedkim_ray.errors import EnvironmentProblemError, StorageError
from fedkim_ray.storage import Folder
from serve.app import ServeArgs
from serve.server import RunningServer, run_server


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
    for options in ({"rate_limit": "often"}, {"engine_scaling": {"min_replicas": 2}}):
        with pytest.raises(EnvironmentProblemError, match="cannot be used"):
            run_server(bundle_url, no_auth=True, **options)


def test_a_taken_port_is_named(bundle_url: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EnvironmentProblemError, match=f"127.0.0.1:{port} cannot be bound"):
            run_server(bundle_url, port=port, no_auth=True)


@pytest.fixture(scope="module")
def server(ray_cluster: None, bundle_url: str, tiny_root: str) -> Iterator[RunningServer]:
    """The service on a real Ray."""
    server = run_server(bundle_url, port=0, no_auth=True, samples=tiny_root, engine_cpus=0.5)
    with server:
        yield server
    assert ray.is_initialized(), "a Ray that was there before is left alone"


@pytest.fixture
def web(server: RunningServer) -> Iterator[httpx.Client]:
    """A client of the service."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.mark.ray
def test_predict_chat_health_and_page_over_http(web: httpx.Client, server: RunningServer) -> None:
    assert web.get("/healthz").status_code == 200
    version = web.get("/readyz").json()["bundle_version"]
    assert "Not a medical device" in web.get("/").text
    for task in ("lung_opacity", "ecg_abnormal", "mortality", "slake_vqa"):
        found = web.get(f"/v1/samples/{task}-0").json()["input"]
        answer = web.post(f"/v1/tasks/{task}/predict", json={"inputs": [found, found]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["bundle_version"] == version
        first, second = answer.json()["data"]
        assert first["answer"] == second["answer"]
    image = web.get("/v1/samples/slake_vqa-0").json()["input"]["image"]
    parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "Why?"}]
    official = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    asked = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "max_tokens": 8}
    whole = official.chat.completions.create(**asked)  # type: ignore[call-overload]
    chunks = list(official.chat.completions.create(**asked, stream=True))  # type: ignore[call-overload]
    words = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert words == whole.choices[0].message.content
    assert chunks[-1].fedkim["task"] == whole.fedkim["task"] == "med_vqa"


@pytest.mark.ray
def test_an_error_of_the_model_deployment_keeps_its_status(web: httpx.Client) -> None:
    found = web.get("/v1/samples/lung_opacity-0").json()["input"]
    long = found | {"question": "heart " * 1300}
    answer = web.post("/v1/tasks/lung_opacity/predict", json={"inputs": [long]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "question"
    assert "tokens" in answer.json()["error"]["message"]


@pytest.mark.ray
def test_metrics_show_every_replica_of_the_cluster(web: httpx.Client) -> None:
    found = web.get("/v1/samples/covid19-0").json()["input"]
    assert web.post("/v1/tasks/covid19/predict", json={"inputs": [found]}).status_code == 200
    wanted = {"ray_fedkim_requests_total", "ray_fedkim_batch_size_count"}  # of Api, of Engine
    deadline = time.monotonic() + 40  # the exporter hears of new values every ten seconds
    seen: set[str] = set()
    while not wanted <= seen and time.monotonic() < deadline:
        families = text_string_to_metric_families(web.get("/metrics").text)
        seen = {sample.name for family in families for sample in family.samples}
        time.sleep(1)
    assert wanted <= seen
