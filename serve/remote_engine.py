"""The promises of engine and preparer kept across Ray Serve handles: same calls, same errors."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from fedkim_ray.types import Task
from serve.adapters import adapter_key
from serve.engine import Description, EngineRequest, Piece, Scored
from serve.errors import InternalError, NotReadyError, OverloadedError, ServingError
from serve.inputs import RawInput
from serve.preparing import Prepared
from serve.refusals import Refusal

T = TypeVar("T")
QUOTA_TIMEOUT_S = 2.0
LOST = (RayError, RayServeException, NotReadyError)
"""How a call ends that no replica answered."""
ATTEMPTS = 2
"""A question whose replica died is asked once more: scoring changes nothing, so it may be."""


class RemoteEngine:
    """Asks whichever replica of the model Serve chooses."""

    def __init__(self, handle: DeploymentHandle[Any], *, holds_adapters: bool = False) -> None:
        """Keep the way to the replicas.

        Args:
            handle: Serve's handle of the model's deployment.
            holds_adapters: Whether its replicas keep folded adapters: then Serve prefers one that
                has the adapter of a question.
        """
        self.handle = handle
        self.holds_adapters = holds_adapters

    async def describe(self) -> Description:
        """Return what is served; see ``Engine``."""
        return await _again(lambda: self.handle.describe.remote())

    async def score(self, requests: Sequence[EngineRequest]) -> list[Scored]:
        """Return the label probabilities of yes/no questions, in order; see ``Engine``."""
        return await _again(lambda: self._handle_for(requests[0]).score.remote(list(requests)))

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Piece, None]:
        """Yield an answer piece by piece; see ``Engine``.

        A replica that dies before the first piece costs the asker nothing but time; after it, the
        answer breaks off with an error, because another replica could not go on with it.
        """
        for attempt in range(ATTEMPTS):
            stream: Any = self._handle_for(request).options(stream=True).generate.remote(request)
            begun = False
            try:
                async for piece in stream:
                    if isinstance(piece, Refusal):
                        raise piece.error
                    begun = True
                    yield piece
                return
            except LOST as error:
                problem = as_serving_error(error)
                is_last = begun or attempt + 1 == ATTEMPTS
                if is_last or not isinstance(problem, NotReadyError):
                    raise problem from None
            finally:
                _stop(stream)

    def _handle_for(self, request: EngineRequest) -> DeploymentHandle[Any]:
        """Return the handle that prefers replicas with a question's adapter."""
        if not self.holds_adapters:
            return self.handle
        key = adapter_key(request.task, request.example)
        return self.handle.options(multiplexed_model_id=key)


class RemotePreparer:
    """Has inputs decoded and encoded by whichever replica Serve chooses; see ``Preparer``."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self.handle = handle

    async def prepare(
        self, raws: Sequence[RawInput], task: Task, encoded: bool = True
    ) -> list[Prepared]:
        """Return every patient's inputs, in order; see ``Preparer``."""
        return await _again(lambda: self.handle.prepare.remote(list(raws), task, encoded))


class RemoteQuota:
    """Counts a key's questions in the one process that counts for all replicas; see ``Quota``."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self.handle = handle

    async def take(self, key: str, num: int = 1) -> float:
        """Count questions of a key; see ``Quota``."""
        async with asyncio.timeout(QUOTA_TIMEOUT_S):
            return float(await _answer(self.handle.take.remote(key, num)))


async def _again(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask, and once more where the replica was lost on the way or has ended."""
    for attempt in range(ATTEMPTS):
        try:
            answer: T | Refusal = await _answer(ask())
            if not isinstance(answer, Refusal):
                return answer
            raise answer.error
        except LOST as error:
            problem = as_serving_error(error)
            if attempt + 1 == ATTEMPTS or not isinstance(problem, NotReadyError):
                raise problem from None
    raise AssertionError("the last attempt returns or raises")


async def _answer(response: Any) -> Any:
    """Wait for a replica's answer, and have the replica stop where nobody waits any longer."""
    try:
        return await response
    except asyncio.CancelledError:
        _stop(response)
        raise


def _stop(response: Any) -> None:
    """Have a replica stop; where the call has failed before it reached one, Serve says so again."""
    with suppress(Exception):
        response.cancel()


def as_serving_error(error: Exception) -> ServingError:
    """Return what an error means to the one who asked; a refusal means what it says."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
        return InternalError(
            "A replica failed on this question.",
            "It answers every valid question.",
            "Tell its operator; Serve's log has the place.",
        )
    if isinstance(error, BackPressureError):
        return OverloadedError(
            "Too many requests wait for the model.",
            "Their number is limited, so that those who wait are answered in time.",
            "Ask again after the time in Retry-After.",
        )
    return NotReadyError(
        f"The model's replica was lost or does not start ({type(error).__name__}).",
        "Serve replaces it by itself.",
        "Ask again after the time in Retry-After.",
    )
