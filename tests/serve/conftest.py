"""A tiny bundle, an engine over it, and the HTTP app around that, all without Ray."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fedkim_ray.bundle.read import load_bundle
from fedkim_ray.data.loading import Example, load_samples
from fedkim_ray.data.tasks import task_table
from fedkim_ray.storage import Folder
from serve.api import create_app
from serve.engine import EngineRequest, Sampling
from serve.gateway import Gateway
from serve.samples import Samples
from serve.transformers_engine import TransformersEngine
from tests.serve.http_server import serving


@pytest.fixture(scope="session")
def engine(bundle_url: str) -> Iterator[TransformersEngine]:
    """The embedded engine, in float32."""
    engine = TransformersEngine(load_bundle(bundle_url))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def app(engine: TransformersEngine, tiny_root: str) -> FastAPI:
    """The HTTP app, without Ray and without keys."""
    tasks = {task.id: task for task in engine.facts.tasks}
    samples = Samples.from_root(tiny_root, tasks, engine.facts.spec)
    return create_app(Gateway(engine), samples=samples)


@pytest.fixture(scope="session")
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client that speaks to the app without a network."""
    with TestClient(app) as client:
        yield client


@pytest.fixture(scope="session")
def server_url(app: FastAPI) -> Iterator[str]:
    """The same app behind a real HTTP server on the loopback address."""
    with serving(app) as url:
        yield url


@pytest.fixture(scope="session")
def requests(tiny_root: str, engine: TransformersEngine) -> list[EngineRequest]:
    """Two test rows of every task, as the engine takes them."""
    root = Folder.at(tiny_root)
    rows: list[EngineRequest] = []
    for task in task_table().values():
        samples = load_samples(root / "test" / task.id, engine.facts.spec)
        examples: list[Example] = [samples[0], samples[1]]
        rows += [
            EngineRequest(task=task, example=e, sampling=Sampling(max_new_tokens=8))
            for e in examples
        ]
    return rows
