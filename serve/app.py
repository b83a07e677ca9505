"""The Ray Serve application: an HTTP deployment in front of a model deployment.

    serve run serve.app:build_app bundle=URL

Both scale on their own: HTTP, decoding of inputs and the playground in ``Api``, the model in
``Engine``. What they say to each other is the protocol of ``engine.py``.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

import ray
import torch
from fastapi import FastAPI
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ray import serve as ray_serve
from ray.serve.handle import DeploymentHandle

from fedkim_ray.bundle.read import load_bundle
from fedkim_ray.types import Frozen
from serve.api import create_app
from serve.auth import ApiKeys
from serve.engine import Description, EngineRequest, Piece, Scored
from serve.gateway import Gateway
from serve.limits import Limits
from serve.remote_engine import RemoteEngine
from serve.samples import Samples
from serve.transformers_engine import TransformersEngine


class ServeArgs(Frozen):
    """What the service is made of; `serve run` and Serve's configuration files give these."""

    bundle: str
    """fsspec URL of the bundle; serving reads nothing else."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the model computes in; ``auto`` takes what the replica's machine is fast at."""
    samples: str | None = None
    """fsspec URL of a data root whose test rows the playground offers."""
    api_keys_file: str | None = None
    """Names and SHA-256 of API keys, see ``auth.py``; nobody is asked for one where null."""
    engine_cpus: PositiveFloat = 1.0
    engine_gpus: NonNegativeFloat = 0.0
    engine_threads: PositiveInt = 1
    """torch threads of one replica of the model."""
    api_cpus: NonNegativeFloat = 0.1
    api_replicas: PositiveInt = 1
    min_replicas: NonNegativeInt = 1
    max_replicas: PositiveInt = 1
    """Replicas of the model; Serve adds and removes them with the load."""
    target_ongoing_requests: PositiveFloat = 8.0
    """Requests under way for each replica of the model that autoscaling aims at."""
    max_ongoing_requests: PositiveInt = 64
    """Requests that one replica of the model takes at once; further ones queue."""
    max_queued_requests: PositiveInt = 256
    """Requests that queue for the model; further ones get status 503 and Retry-After."""
    max_batch: PositiveInt = 16
    """Rows in one forward pass."""
    limits: Limits = Limits()


class EngineReplica:
    """One copy of the model."""

    def __init__(self, args: ServeArgs) -> None:
        torch.set_num_threads(args.engine_threads)
        bundle = load_bundle(args.bundle, args.dtype)
        self.engine = TransformersEngine(
            bundle, max_batch=args.max_batch, max_waiting=args.limits.waiting
        )

    async def describe(self) -> Description:
        """Return what is served."""
        return await self.engine.describe()

    async def score(self, requests: Sequence[EngineRequest]) -> list[Scored]:
        """Return the label probabilities of yes/no questions."""
        return await self.engine.score(requests)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Piece, None]:
        """Yield an answer piece by piece."""
        pieces = self.engine.generate(request)
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    def check_health(self) -> None:
        """Raise where the engine's loop has ended, so that Serve replaces the replica."""
        self.engine.require_alive()


@ray_serve.ingress()
class ApiReplica:
    """One copy of the HTTP app."""

    async def __init__(self, engine: DeploymentHandle[Any], args: ServeArgs) -> None:  # type: ignore[misc]
        self.gateway = Gateway(RemoteEngine(engine), args.limits)
        self.keys = ApiKeys.from_file(args.api_keys_file) if args.api_keys_file else None
        self.samples = Samples()
        if args.samples:
            spec = (await self.gateway.described()).facts.spec
            self.samples = Samples.from_root(args.samples, await self.gateway.tasks(), spec)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the app; Serve calls this once the constructor is done."""
        return create_app(
            self.gateway, keys=self.keys, samples=self.samples, exporter_urls=exporter_urls
        )


def exporter_urls() -> list[str]:
    """Return the metric exporters of all nodes that are alive."""
    return [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]


def build_app(args: ServeArgs) -> ray_serve.Application:
    """Return the application; Serve's command line and configuration files call this."""
    deployment: Any = ray_serve.deployment  # its annotation forgets what it returns for a class
    engine = deployment(EngineReplica).options(
        name="Engine",
        ray_actor_options={"num_cpus": args.engine_cpus, "num_gpus": args.engine_gpus},
        autoscaling_config={
            "min_replicas": args.min_replicas,
            "max_replicas": max(args.min_replicas, args.max_replicas),
            "target_ongoing_requests": args.target_ongoing_requests,
        },
        max_ongoing_requests=args.max_ongoing_requests,
        max_queued_requests=args.max_queued_requests,
    )
    api = deployment(ApiReplica).options(
        name="Api",
        num_replicas=args.api_replicas,
        ray_actor_options={"num_cpus": args.api_cpus},
        max_ongoing_requests=4 * args.max_queued_requests,
    )
    bound: ray_serve.Application = api.bind(engine.bind(args), args)
    return bound
