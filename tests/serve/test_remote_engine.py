"""What Ray's errors mean to the one who asked."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError

from serve.engine import EngineRequest
from serve.errors import FieldError, InternalError, NotReadyError, OverloadedError
from serve.refusals import Refusal
from serve.remote_engine import RemoteEngine, RemotePreparer, RemoteQuota, as_serving_error

FIELD = FieldError("Came.", "Expected.", "Do.", "question")
ENDED = NotReadyError("Ended.", "Runs.", "Ask again.")


class Handle:
    """A handle whose calls end as told, one after another."""

    def __init__(self, *ends: Any) -> None:
        self.ends = list(ends)
        self.describe = SimpleNamespace(remote=self._end)

    async def _end(self) -> Any:
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end


def task_error(cause: Exception) -> Exception:
    """An exception as a replica's own arrives at its caller."""
    error = RayTaskError("score", "traceback with values", cause)
    return error.as_instanceof_cause()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FIELD, FieldError),
        (task_error(ValueError("a value")), InternalError),
        (task_error(RayActorError()), NotReadyError),
        (BackPressureError(9, 8), OverloadedError),
        (RayActorError(), NotReadyError),
    ],
)
def test_every_error_becomes_one_with_a_status(error: Exception, kind: type) -> None:
    problem = as_serving_error(error)
    assert type(problem) is kind
    assert "value" not in str(problem)


def test_a_lost_replica_is_asked_again_once() -> None:
    engine = RemoteEngine(Handle(RayActorError(), "described"))  # type: ignore[arg-type]
    assert asyncio.run(engine.describe()) == "described"
    engine = RemoteEngine(Handle(RayActorError(), RayActorError(), "late"))  # type: ignore[arg-type]
    with pytest.raises(NotReadyError, match="Retry-After"):
        asyncio.run(engine.describe())


def test_what_would_fail_again_is_not_asked_again() -> None:
    engine = RemoteEngine(Handle(Refusal(FIELD), "second"))  # type: ignore[arg-type]
    with pytest.raises(FieldError, match="Expected") as caught:
        asyncio.run(engine.describe())
    assert caught.value.field == "question"
    engine = RemoteEngine(Handle(task_error(ValueError("a value")), "second"))  # type: ignore[arg-type]
    with pytest.raises(InternalError):
        asyncio.run(engine.describe())


def test_a_replica_whose_engine_has_ended_is_asked_again_once() -> None:
    engine = RemoteEngine(Handle(Refusal(ENDED), "described"))  # type: ignore[arg-type]
    assert asyncio.run(engine.describe()) == "described"
    streams = StreamHandle(Stream([Refusal(ENDED)], None), Stream(["a"], None))
    assert asyncio.run(words(RemoteEngine(streams))) == ["a"]  # type: ignore[arg-type]


def test_a_refusal_ends_a_stream() -> None:
    torn, other = Stream(["a", Refusal(FIELD)], None), Stream(["b"], None)
    with pytest.raises(FieldError):
        asyncio.run(words(RemoteEngine(StreamHandle(torn, other))))  # type: ignore[arg-type]
    assert torn.cancelled


class Unanswered:
    """A call that no replica answers, and that knows whether it was cancelled."""

    cancelled = False

    def __await__(self) -> Generator[Any, None, None]:
        return asyncio.sleep(60).__await__()

    def cancel(self) -> None:
        """Note that nobody waits any more."""
        self.cancelled = True


@pytest.mark.parametrize("call", ["describe", "prepare", "take"])
def test_a_call_that_nobody_waits_for_is_cancelled(call: str) -> None:
    asked = Unanswered()
    handle: Any = SimpleNamespace(**{call: SimpleNamespace(remote=lambda *_: asked)})

    async def leave() -> None:
        waiting: dict[str, Callable[[], Awaitable[Any]]] = {
            "describe": RemoteEngine(handle).describe,
            "prepare": lambda: RemotePreparer(handle).prepare([], None),  # type: ignore[arg-type]
            "take": lambda: RemoteQuota(handle).take("ward"),
        }
        async with asyncio.timeout(0.01):
            await waiting[call]()

    with pytest.raises(TimeoutError):
        asyncio.run(leave())
    assert asked.cancelled


class Stream:
    """A stream of pieces that ends as told, and knows whether it was cancelled."""

    def __init__(self, pieces: Sequence[Any], end: Exception | None) -> None:
        self.pieces, self.end, self.cancelled = pieces, end, False

    async def __aiter__(self) -> AsyncIterator[Any]:
        for piece in self.pieces:
            yield piece
        if self.end:
            raise self.end

    def cancel(self) -> None:
        """Note that nobody listens any more."""
        self.cancelled = True


class StreamHandle:
    """A handle that gives streams, one after another."""

    def __init__(self, *streams: Stream) -> None:
        self.left = list(streams)
        self.generate = SimpleNamespace(remote=lambda _request: self.left.pop(0))

    def options(self, stream: bool) -> "StreamHandle":
        """Return itself: all of its calls are streams."""
        assert stream
        return self


async def words(engine: RemoteEngine) -> list[Any]:
    return [piece async for piece in engine.generate(None)]  # type: ignore[arg-type]


def test_an_answer_that_had_not_begun_is_asked_for_again() -> None:
    lost, whole = Stream([], RayActorError()), Stream(["a", "b"], None)
    engine = RemoteEngine(StreamHandle(lost, whole))  # type: ignore[arg-type]
    assert asyncio.run(words(engine)) == ["a", "b"]
    assert lost.cancelled
    assert whole.cancelled


class Unassigned(Stream):
    """A stream that reached no replica: Serve's raise their error once more when cancelled."""

    def cancel(self) -> None:
        """Say again why."""
        assert self.end
        raise self.end


def test_a_stream_that_reached_no_replica_ends_as_any_other_call() -> None:
    full = StreamHandle(Unassigned([], BackPressureError(9, 8)))
    with pytest.raises(OverloadedError):
        asyncio.run(words(RemoteEngine(full)))  # type: ignore[arg-type]
    lost = StreamHandle(Unassigned([], RayActorError()), Stream(["a"], None))
    assert asyncio.run(words(RemoteEngine(lost))) == ["a"]  # type: ignore[arg-type]


def test_an_answer_that_had_begun_breaks_off() -> None:
    torn, other = Stream(["a"], RayActorError()), Stream(["b"], None)
    engine = RemoteEngine(StreamHandle(torn, other))  # type: ignore[arg-type]
    with pytest.raises(NotReadyError, match="replica was lost"):
        asyncio.run(words(engine))
    assert torn.cancelled


class Preferring:
    """A handle that notes which adapters Serve was asked to look for."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.score = SimpleNamespace(remote=self._scored)

    async def _scored(self, requests: Sequence[EngineRequest]) -> list[str]:
        return ["scored"] * len(requests)

    def options(self, multiplexed_model_id: str) -> "Preferring":
        """Note an adapter."""
        self.keys.append(multiplexed_model_id)
        return self


def test_replicas_that_hold_a_questions_adapter_are_preferred(
    requests: list[EngineRequest],
) -> None:
    handle = Preferring()
    engine = RemoteEngine(handle, holds_adapters=True)  # type: ignore[arg-type]
    first, second, other = requests[:3]  # two patients of one task, one of another
    for request in (first, second, other):
        assert asyncio.run(engine.score([request])) == ["scored"]
    assert handle.keys[0] == handle.keys[1] != handle.keys[2]
    asyncio.run(RemoteEngine(handle).score([first]))  # type: ignore[arg-type]
    assert len(handle.keys) == 3  # nothing is preferred where nothing is held
