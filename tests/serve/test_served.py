"""What is served, as long as it stays the same and when it changes."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serve.api import create_app
from serve.engine import Description
from serve.errors import NotReadyError, UnknownNameError
from serve.gateway import Gateway
from serve.served import Served
from serve.transformers_engine import TransformersEngine

GONE = NotReadyError("Gone.", "There.", "Wait.")
HANGING = "hanging"
SLOW = "slow"
SLOW_S = 0.1


class Telling:
    """An engine that describes itself in turn by each of these; the last stays."""

    def __init__(self, *told: Any) -> None:
        self.left = list(told)

    async def describe(self) -> Any:
        """Give the next one; see ``Engine``."""
        told = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        if told is HANGING:
            await asyncio.sleep(60)
        if told is SLOW:
            await asyncio.sleep(SLOW_S)
        if isinstance(told, Exception):
            raise told
        return told


async def described(served: Served, times: int) -> list[Any]:
    known = []
    for _ in range(times):
        known.append(await served.described())
        await asyncio.sleep(0.01)  # what was asked on the way may be answered
    return known


def test_a_description_is_asked_for_in_nobodys_context() -> None:
    asker: ContextVar[str] = ContextVar("asker", default="nobody")
    seen: list[str] = []

    class Noting(Telling):
        async def describe(self) -> Any:
            seen.append(asker.get())
            return await super().describe()

    asker.set("a request, with which Serve ends all that it began")
    asyncio.run(described(Served(Noting("told")), 1))  # type: ignore[arg-type]
    assert seen == ["nobody"]


def test_a_fresh_description_is_not_asked_for_again() -> None:
    assert asyncio.run(described(Served(Telling("old", "new")), 3)) == ["old"] * 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "known"),
    [
        (("old", "new"), ["old", "old", "new", "new"]),
        (("old", GONE, "new"), ["old", "old", "old", "new"]),
        (("old", HANGING, "new"), ["old", "old", "old", "old"]),
    ],
)
def test_an_old_one_is_asked_for_again_and_serves_until_another_is_there(
    told: tuple[Any, ...], known: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.served.FRESH_S", 0.0)
    assert asyncio.run(described(Served(Telling(*told)), 4)) == known  # type: ignore[arg-type]


@pytest.mark.parametrize("told", [GONE, HANGING])
def test_an_engine_that_never_answered_is_not_ready(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.served.GIVE_UP_S", 0.01)
    with pytest.raises(NotReadyError):
        asyncio.run(Served(Telling(told)).described())  # type: ignore[arg-type]


def test_a_late_description_is_kept_though_nobody_waited_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def three() -> list[Any]:
        served = Served(Telling("old", SLOW, "never asked"))  # type: ignore[arg-type]
        known = await described(served, 2)
        await asyncio.sleep(3 * SLOW_S)
        monkeypatch.setattr("serve.served.FRESH_S", 60.0)
        return [*known, *await described(served, 1)]

    monkeypatch.setattr("serve.served.FRESH_S", 0.0)
    assert asyncio.run(three()) == ["old", "old", SLOW]


def test_nobody_waits_for_a_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def three() -> list[Any]:
        served = Served(Telling("old", HANGING))  # type: ignore[arg-type]
        async with asyncio.timeout(0.5):
            return await described(served, 3)

    monkeypatch.setattr("serve.served.FRESH_S", 0.0)
    monkeypatch.setattr("serve.served.PATIENCE_S", 60.0)
    assert asyncio.run(three()) == ["old"] * 3


@pytest.mark.parametrize(("within_s", "latest"), [(60.0, "old"), (0.0, "new")])
def test_one_that_is_not_young_enough_is_waited_for(within_s: float, latest: str) -> None:
    async def two() -> Any:
        served = Served(Telling("old", "new"))  # type: ignore[arg-type]
        await served.described()
        return await served.lately(within_s)

    assert asyncio.run(two()) == latest


def test_load_alone_makes_no_model_unready(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.api.READY_TIMEOUT_S", 0.05)
    monkeypatch.setattr("serve.served.FRESH_S", 0.0)
    now = asyncio.run(engine.describe())
    busy = Gateway(Telling(now, HANGING))  # type: ignore[arg-type]
    with TestClient(create_app(busy)) as web:
        assert [web.get("/readyz").status_code for _ in range(3)] == [200] * 3
        monkeypatch.setattr("serve.api.READY_S", 0.0)  # it has been silent for too long
        assert web.get("/readyz").status_code == 503


def only(name: str) -> Callable[[Any], str]:
    def look(described: Any) -> str:
        if described != name:
            raise UnknownNameError(f"No {name}.", "Another.", "Use that.")
        return name

    return look


def test_what_is_absent_is_looked_for_anew_once() -> None:
    assert asyncio.run(Served(Telling("old", "new")).find(only("new"))) == "new"  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError):
        asyncio.run(Served(Telling("old", "new", "newer")).find(only("newer")))  # type: ignore[arg-type]


class RollingIn:
    """An engine whose first description is that of the bundle before, of which all has changed."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine = engine
        self.generate, self.score = engine.generate, engine.score
        self.told = 0

    async def describe(self) -> Description:
        """Tell of another bundle once; see ``Engine``."""
        now = await self.engine.describe()
        self.told += 1
        if self.told > 1:
            return now
        former = now.facts.model_copy(update={"name": "former", "tasks": now.facts.tasks[:1]})
        return Description(facts=former, expert_weights=now.expert_weights)


def test_new_names_are_answered_as_soon_as_the_engine_has_them(engine: TransformersEngine) -> None:
    def web() -> TestClient:
        client = TestClient(create_app(Gateway(RollingIn(engine))))
        assert client.get("/v1/models").json()["data"][0]["id"] == "former"
        return client

    series = {"lab": {"lab_0": 1.5}}
    content = [{"type": "input_series", "input_series": series}]
    chat = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
    stay = {"inputs": [{"series": series}]}
    assert web().get("/v1/models/tiny").json()["id"] == "tiny"
    assert web().post("/v1/chat/completions", json=chat).json()["model"] == "tiny"
    assert web().post("/v1/tasks/mortality/predict", json=stay).json()["task"] == "mortality"
