"""One copy of the model inside Ray Serve, whichever engine runs it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import torch
from ray import serve as ray_serve

from fedkim_ray.bundle.read import load_bundle
from serve.adapters import adapter_key
from serve.engine import Description, EngineRequest, Piece, Scored
from serve.refusals import Refusal, told, told_in_pieces
from serve.transformers_engine import TransformersEngine
from serve.vllm_engine import VllmEngine

if TYPE_CHECKING:
    from serve.app import ServeArgs


class EngineReplica:
    """One copy of the model."""

    def __init__(self, args: "ServeArgs") -> None:
        torch.set_num_threads(args.engine_threads)
        self.engine = start_engine(args)

    async def describe(self) -> Description | Refusal:
        """Return what is served."""
        return await told(self.engine.describe())

    async def score(self, requests: Sequence[EngineRequest]) -> list[Scored] | Refusal:
        """Return the label probabilities of yes/no questions."""
        return await told(self.engine.score(requests))

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Piece | Refusal, None]:
        """Yield an answer piece by piece."""
        async with aclosing(told_in_pieces(self.engine.generate(request))) as pieces:
            async for piece in pieces:
                yield piece

    def __del__(self) -> None:
        """End the engine: Serve calls this where a replica ends, and at no other time."""
        if engine := getattr(self, "engine", None):
            engine.close()

    def check_health(self) -> None:
        """Raise where the engine has ended, so that Serve replaces the replica."""
        self.engine.require_alive()


def start_engine(args: "ServeArgs") -> TransformersEngine | VllmEngine:
    """Return the engine that the configuration names; ``build_app`` has resolved ``auto``."""
    if args.engine == "vllm":
        return VllmEngine(
            args.bundle,
            args.dtype,
            args.vllm,
            max_batch=args.max_batch,
            max_waiting=args.limits.waiting,
            threads=args.engine_threads,
        )
    return TransformersEngine(
        load_bundle(args.bundle, args.dtype),
        max_batch=args.max_batch,
        max_waiting=args.limits.waiting,
    )


def adapter_holding(max_adapters: int) -> type[EngineReplica]:
    """Return a replica that tells Serve which adapters it holds.

    Serve sends a question to a replica that holds its adapter; where those are busy for a second,
    to another one, which then compiles it too. What Serve keeps is the keys alone, in an LRU of
    the same size and order as the engine's own (``AdapterShelf``).

    Args:
        max_adapters: Adapters that one replica keeps.
    """

    class AdapterHoldingReplica(EngineReplica):
        """One copy of the model and of the adapters asked for last."""

        @ray_serve.multiplexed(max_num_models_per_replica=max_adapters)  # type: ignore[untyped-decorator]
        async def hold(self, key: str) -> str:
            """Have Serve know that this adapter is here."""
            return key

        async def score(self, requests: Sequence[EngineRequest]) -> list[Scored] | Refusal:
            """Return the label probabilities of yes/no questions."""
            for key in dict.fromkeys(adapter_key(r.task, r.example) for r in requests):
                await self.hold(key)
            return await super().score(requests)

        async def generate(self, request: EngineRequest) -> AsyncGenerator[Piece | Refusal, None]:
            """Yield an answer piece by piece."""
            await self.hold(adapter_key(request.task, request.example))
            pieces: Any = super().generate(request)
            try:
                async for piece in pieces:
                    yield piece
            finally:
                await pieces.aclose()

    return AdapterHoldingReplica
