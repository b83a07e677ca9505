"""The Ray Serve application: three deployments, each of which scales on its own.

    serve run serve.app:build_app bundle=URL api_keys_file=PATH

``Api`` speaks HTTP; ``Inputs`` decodes images, ECGs and series and runs the encoders; ``Engine`` is
the language model. What they say to each other are the protocols of ``engine.py`` and
``preparing.py``. Where ``inputs_scaling`` is null, ``Api`` does the work of ``Inputs`` itself.
"""

from collections.abc import Sequence
from typing import Any, Literal, Self

import ray
import torch
from fastapi import FastAPI
from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from ray import serve as ray_serve
from ray.serve.config import BackpressureConfig
from ray.serve.handle import DeploymentHandle

from fedkim_ray.bundle.read import read_facts
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.storage import Folder
from fedkim_ray.types import Frozen, LabelSelector, Task
from serve.api import create_app
from serve.audit import AuditLog
from serve.auth import KeyFile
from serve.encoding import FeatureEncoder
from serve.engine_choice import WantedEngine, choose_engine, has_vllm
from serve.engine_replica import EngineReplica, adapter_holding
from serve.errors import OverloadedError
from serve.gateway import Gateway
from serve.inputs import RawInput
from serve.limits import Limits
from serve.preparing import AT_ONCE, LocalPreparer, Prepared
from serve.quota import MovingWindow, one_limit
from serve.refusals import Refusal, told
from serve.remote_engine import RemoteEngine, RemotePreparer, RemoteQuota
from serve.samples import Samples
from serve.vllm_start import VllmSettings

LOOPBACK_NAMES = ("localhost", "127.0.0.1")
METRICS_INTERVAL_S = 10.0
"""Seconds between two of Serve's own reports of the load."""


class Scaling(Frozen):
    """How many replicas a deployment has; Serve adds and removes them with the load."""

    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 1
    target_ongoing_requests: PositiveFloat
    """Requests under way for each replica that autoscaling aims at."""
    upscale_delay_s: NonNegativeFloat = 10.0
    """Seconds that the load stays high before replicas are added."""
    downscale_delay_s: NonNegativeFloat = 300.0
    """Seconds that the load stays low before replicas are ended."""
    look_back_period_s: float = Field(30.0, gt=METRICS_INTERVAL_S)
    """Seconds over which the load is averaged; longer than between two reports of it."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas is {self.min_replicas}, more than max_replicas, {self.max_replicas}."
            )
        return self


class ServeArgs(Frozen):
    """What the service is made of; `serve run` and Serve's configuration files give these."""

    bundle: str
    """fsspec URL of the bundle; serving reads nothing else."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What the model computes in; ``auto`` takes what the replica's machine is fast at."""
    engine: WantedEngine = "auto"
    """``transformers``, ``vllm``, or ``auto``: vLLM where it is installed and ``engine_gpus`` is
    above 0, else transformers."""
    vllm: VllmSettings = VllmSettings()
    """What vLLM may take; no meaning for the other engine."""
    samples: str | None = None
    """fsspec URL of a data root whose test rows the playground offers."""
    api_keys_file: str | None = None
    """Names and SHA-256 of API keys, see ``auth.py``."""
    no_auth: bool = False
    """Ask nobody for a key; then the service answers to loopback names alone."""
    rate_limit: str | None = None
    """Questions that one key may ask, such as ``60/minute``; no limit where null.

    Each patient of a ``predict`` request is a question.
    """
    rate_limit_store: str = "memory://"
    """Where questions are counted: one process of this service, whose counts end with each
    roll-out, or a store such as redis://… (which needs the package ``coredis``)."""
    audit_log: str | None = None
    """Local folder for a line on every question, see ``audit.py``; none where null."""
    hosts: tuple[str, ...] = ()
    """Names that the service may be addressed by; any where empty, or loopback's by ``no_auth``."""
    engine_cpus: PositiveFloat = 1.0
    engine_gpus: NonNegativeFloat = 0.0
    engine_threads: PositiveInt = 1
    """torch threads of one replica of the model."""
    replica_selector: LabelSelector = Field(default_factory=dict)
    """Ray node labels of nodes that replicas may run on, such as {role: serving}; any if empty."""
    engine_scaling: Scaling = Scaling(target_ongoing_requests=8.0)
    inputs_cpus: NonNegativeFloat = 0.1
    inputs_scaling: Scaling | None = Scaling(target_ongoing_requests=4.0)
    """Null has the HTTP app's replicas decode and encode: a question is answered sooner by the call
    that it saves, and a decoder that crashes takes a replica of the HTTP app with it."""
    api_cpus: NonNegativeFloat = 0.1
    api_scaling: Scaling = Scaling(target_ongoing_requests=64.0)
    max_ongoing_requests: PositiveInt = 64
    """Requests that one replica of the model takes at once; further ones queue."""
    max_queued_requests: PositiveInt = 256
    """Requests that queue for the model in one replica of the HTTP app; further ones get status 503
    and Retry-After."""
    surge_percent: int = Field(25, ge=0, le=100)
    """Replicas of the next version, in percent and at least one, that start before old ones end.

    Where the cluster has no room for them, the old ones answer and the roll-out waits. 0 ends old
    ones first, and their questions wait while the next model loads.
    """
    max_batch: PositiveInt = 16
    """Rows in one forward pass."""
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.api_keys_file is None and not self.no_auth:
            raise ValueError("give `api_keys_file`, or say `no_auth: true`")
        return self

    @field_validator("rate_limit")
    @classmethod
    def _parses(cls, value: str | None) -> str | None:
        if value is not None:
            one_limit(value)
        return value


class InputsReplica:
    """One copy of the decoders and encoders."""

    def __init__(self, args: ServeArgs) -> None:
        self.preparer = encoding_preparer(args)

    async def prepare(
        self, raws: Sequence[RawInput], task: Task, encoded: bool = True
    ) -> list[Prepared] | Refusal:
        """Return every patient's inputs, in order."""
        return await told(self.preparer.prepare(raws, task, encoded))


def encoding_preparer(args: ServeArgs) -> LocalPreparer:
    """Return what decodes and encodes in this process."""
    torch.set_num_threads(1)
    encoder = FeatureEncoder.from_bundle(args.bundle, args.dtype)

    async def spec() -> DataSpec:
        return encoder.facts.spec

    return LocalPreparer(spec, args.limits, encoder)


class QuotaReplica(MovingWindow):
    """The one counter of all replicas' questions."""


@ray_serve.ingress()
class ApiReplica:
    """One copy of the HTTP app."""

    def __init__(
        self,
        inputs: DeploymentHandle[Any] | None,
        engine: DeploymentHandle[Any],
        quota: DeploymentHandle[Any] | None,
        args: ServeArgs,
    ) -> None:
        self.hosts = args.hosts or (LOOPBACK_NAMES if args.no_auth else ())
        self.quota = RemoteQuota(quota) if quota else None
        self.audit = AuditLog(args.audit_log) if args.audit_log else None
        preparer = RemotePreparer(inputs) if inputs else encoding_preparer(args)
        remote = RemoteEngine(engine, holds_adapters=args.engine == "vllm")
        self.gateway = Gateway(remote, args.limits, preparer)
        self.keys = KeyFile(args.api_keys_file) if args.api_keys_file else None
        self.samples = Samples()
        if args.samples:
            # Of the bundle itself: while it rolls in, the engine may still be that of the last one.
            facts = read_facts(Folder.at(args.bundle))
            tasks = {task.id: task for task in facts.tasks}
            self.samples = Samples.from_root(args.samples, tasks, facts.spec)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the app; Serve calls this once the constructor is done."""
        return create_app(
            self.gateway,
            keys=self.keys,
            quota=self.quota,
            audit=self.audit,
            hosts=self.hosts,
            samples=self.samples,
            exporter_urls=exporter_urls,
        )


def exporter_urls() -> list[str]:
    """Return the metric exporters of all nodes that are alive."""
    return [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]


def build_app(args: ServeArgs) -> ray_serve.Application:
    """Return the application; Serve's command line and configuration files call this.

    Raises:
        EnvironmentProblemError: vLLM is wanted and is not installed.
    """
    name = choose_engine(args.engine, args.engine_gpus, has_vllm())
    args = args.model_copy(update={"engine": name})
    replica = adapter_holding(args.vllm.max_adapters) if name == "vllm" else EngineReplica
    engine = _deployment(
        replica, "Engine", args, args.engine_scaling, args.engine_cpus, args.engine_gpus
    ).options(max_ongoing_requests=args.max_ongoing_requests)
    inputs = None
    if args.inputs_scaling:
        deployed = _deployment(
            InputsReplica, "Inputs", args, args.inputs_scaling, args.inputs_cpus
        ).options(max_ongoing_requests=AT_ONCE)
        inputs = deployed.bind(args)
    api = _deployment(ApiReplica, "Api", args, args.api_scaling, args.api_cpus).options(
        # All who may wait for the model, and as many again who ask what costs nothing.
        max_ongoing_requests=2 * (args.max_ongoing_requests + args.max_queued_requests)
    )
    quota = None
    if args.rate_limit:
        deployment: Any = ray_serve.deployment
        counter = {"num_cpus": 0.01, "label_selector": args.replica_selector}
        quota = (
            deployment(QuotaReplica)
            .options(name="Quota", num_replicas=1, ray_actor_options=counter)
            .bind(args.rate_limit, args.rate_limit_store)
        )
    bound: ray_serve.Application = api.bind(inputs, engine.bind(args), quota, args)
    return bound


def _deployment(
    replica: type, name: str, args: ServeArgs, scaling: Scaling, cpus: float, gpus: float = 0.0
) -> Any:
    """Return a deployment with its own resources, its own number of replicas and a short queue."""
    deployment: Any = ray_serve.deployment  # its annotation forgets what it returns for a class
    return deployment(replica).options(
        name=name,
        autoscaling_config=scaling.model_dump(),
        ray_actor_options={
            "num_cpus": cpus,
            "num_gpus": gpus,
            "label_selector": args.replica_selector,
        },
        max_queued_requests=args.max_queued_requests,
        backpressure_config=BackpressureConfig(retry_after_s=OverloadedError.retry_after_s),
        max_surge_percent=args.surge_percent,
        # What is under way when a replica is to end is answered, however long that may take.
        graceful_shutdown_timeout_s=args.limits.request_s,
        health_check_period_s=5.0,
        health_check_timeout_s=30.0,
    )
