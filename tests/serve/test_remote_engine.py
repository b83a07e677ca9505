"""What Ray's errors mean to the one who asked."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError

from serve.errors import FieldError, NotReadyError, OverloadedError, ServingError
from serve.remote_engine import RemoteEngine, as_serving_error

FIELD = FieldError("Came.", "Expected.", "Do.", "question")


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
        (task_error(FIELD), FieldError),
        (task_error(ValueError("a value")), NotReadyError),
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


def test_a_refusal_is_not_asked_again() -> None:
    engine = RemoteEngine(Handle(task_error(FIELD), "second"))  # type: ignore[arg-type]
    with pytest.raises(ServingError, match="Expected") as caught:
        asyncio.run(engine.describe())
    assert caught.value.field == "question"
