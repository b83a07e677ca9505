"""Which replica is asked where replicas hold adapters: the question's own, while it is free.

Real Ray Serve over the real replica; its engine is the embedded one, so that no vLLM is needed:
Serve chooses by the keys that replicas tell it of, whatever stands behind them.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from ray import serve as ray_serve

from serve.adapters import adapter_key
from serve.app import ServeArgs
from serve.engine import EngineRequest
from serve.engine_replica import adapter_holding
from serve.remote_engine import RemoteEngine

pytestmark = pytest.mark.ray
APP = "adapters"
TOLD_S = 1.0
"""Replicas tell Serve of their adapters ten times a second."""
BUSY_S = 4.0
"""Longer than Serve waits for the replica that holds an adapter, which is a second."""


class NamedReplica(adapter_holding(2)):  # type: ignore[misc]
    """Takes its time where it is asked about several patients, and says who it is."""

    async def score(self, requests: Sequence[EngineRequest]) -> Any:
        """Answer for real, then return the replica's own name instead."""
        await super().score(requests)
        if len(requests) > 1:
            await asyncio.sleep(BUSY_S)
        return ray_serve.get_replica_context().replica_id.unique_id


@pytest.fixture(scope="module")
def replicas(ray_cluster: None, bundle_url: str) -> Iterator[RemoteEngine]:
    """Two replicas that take one question at a time."""
    args = ServeArgs(bundle=bundle_url, no_auth=True, engine="transformers")
    deployment: Any = ray_serve.deployment
    app = deployment(NamedReplica).options(
        num_replicas=2, max_ongoing_requests=1, ray_actor_options={"num_cpus": 0.5}
    )
    handle = ray_serve.run(app.bind(args), name=APP, route_prefix=None)
    yield RemoteEngine(handle, holds_adapters=True)
    ray_serve.shutdown()  # the next who starts Serve may want another port


def of_task(requests: list[EngineRequest], task: str) -> EngineRequest:
    return next(r for r in requests if r.task.id == task)


async def who_answers(engine: RemoteEngine, request: EngineRequest, times: int) -> Counter[str]:
    """Ask one after another, and count the replicas by name."""
    names: list[Any] = []
    for _ in range(times):
        names.append(await engine.score([request]))
        await asyncio.sleep(TOLD_S)
    return Counter(names)


def test_the_replica_that_holds_the_adapter_is_asked_and_where_it_is_busy_the_other(
    replicas: RemoteEngine, requests: list[EngineRequest]
) -> None:
    image, stay = of_task(requests, "lung_opacity"), of_task(requests, "mortality")
    assert adapter_key(image.task, image.example) != adapter_key(stay.task, stay.example)

    async def ask() -> None:
        [holder] = await who_answers(replicas, image, 4)
        [other] = await who_answers(replicas, stay, 4)
        assert holder != other, "a new adapter goes where the fewest are"
        [still] = await who_answers(replicas, image, 2)
        assert still == holder
        busy = asyncio.create_task(replicas.score([image, image]))
        await asyncio.sleep(0.5)
        spilled: Any = await asyncio.wait_for(replicas.score([image]), 30)
        assert not busy.done(), "nobody waits for a busy replica while another is free"
        assert spilled == other
        assert await busy == holder

    asyncio.run(ask())
