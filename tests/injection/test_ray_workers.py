"""Workers that stay: their desk, and what the driver does when they are lost."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from fedkim_ray.errors import EnvironmentProblemError, StorageError
from fedkim_ray.injection import ray_workers
from fedkim_ray.injection.ray_workers import Desk, InjectionWorkers
from fedkim_ray.injection.worker import InjectionPlan
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.storage import CLAIM_FILE, Claim, Folder

FIRST = InjectionPlan(
    recipe=load_recipe("tiny"),
    tasks=(),
    round_index=0,
    aggregated_url="a",
    previous_url=None,
    out_url="o",
)
SECOND = replace(FIRST, round_index=1)


def test_a_worker_gets_the_plan_after_the_round_that_it_has_done() -> None:
    async def play() -> None:
        desk = Desk()
        early = asyncio.create_task(desk.next_plan(-1))
        await asyncio.sleep(0)
        assert not early.done()
        await desk.put(FIRST)
        assert await early == FIRST
        assert await desk.next_plan(-1) == FIRST  # a worker that was lost and started again
        waits = asyncio.create_task(desk.next_plan(0))
        await asyncio.sleep(0)
        assert not waits.done()
        await desk.put(SECOND)
        assert await waits == SECOND

    asyncio.run(play())


def test_nobody_waits_at_a_closed_desk() -> None:
    async def play() -> None:
        desk = Desk()
        waits = asyncio.create_task(desk.next_plan(-1))
        await asyncio.sleep(0)
        await desk.close()
        assert await waits is None
        assert await desk.next_plan(-1) is None

    asyncio.run(play())


class FakeRun:
    """A run of workers that do every round that they are asked for, until they are lost."""

    started: list["FakeRun"]

    def __init__(self, *_: Any, max_failures: int) -> None:
        assert max_failures == 0
        self.is_over = self.is_closed = False
        self.started.append(self)

    def wait(self, on_step: Any, done: Callable[[], bool]) -> None:
        """End at once."""
        if self.is_over:
            raise EnvironmentProblemError("Its node is gone.", "It stays.", "Resume.")

    def close(self) -> None:
        """Note it."""
        self.is_closed = True


Told = list[Mapping[str, Any]]
LOST = {"event": "injection_workers_lost", "message": "Its node is gone."}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """Runs that were started, without Ray."""
    monkeypatch.setattr(ray_workers, "ray", MagicMock())
    monkeypatch.setattr(ray_workers, "on_this_node", dict)
    monkeypatch.setattr(ray_workers, "InjectionRun", FakeRun)
    monkeypatch.setattr(FakeRun, "started", [], raising=False)
    return FakeRun.started


def staying_workers(max_failures: int, told: Told) -> InjectionWorkers:
    stay = ["injection.workers=whole_run", f"injection.max_failures={max_failures}"]
    return InjectionWorkers(load_recipe("tiny", stay), "scratch", told.append)


def test_workers_lost_after_the_last_round_are_told_and_do_no_harm(runs: list[FakeRun]) -> None:
    told: Told = []
    with staying_workers(0, told) as workers:
        workers.inject(FIRST, on_step=print)
        runs[0].is_over = True
    assert told == [LOST]
    assert runs[0].is_closed


def test_workers_lost_between_rounds_are_no_failure_of_the_next(runs: list[FakeRun]) -> None:
    told: Told = []
    with staying_workers(0, told) as workers:
        workers.inject(FIRST, on_step=print)
        runs[0].is_over = True
        workers.inject(SECOND, on_step=print)
        assert told == [LOST]
        assert [run.is_closed for run in runs] == [True, False]
    assert told == [LOST]


def test_a_driver_that_another_replaced_is_told_so_and_not_to_resume(
    runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def lose(run: FakeRun, on_step: Any, done: Callable[[], bool]) -> None:
        raise EnvironmentProblemError("The workers failed.", "They run to the end.", "Resume.")

    monkeypatch.setattr(FakeRun, "wait", lose)
    Folder.at(tmp_path).write_json(CLAIM_FILE, {"token": "another's"})
    plan = replace(FIRST, claim=Claim(str(tmp_path), "ours"))
    with (
        pytest.raises(StorageError, match="Another driver took over"),
        staying_workers(0, []) as workers,
    ):
        workers.inject(plan, on_step=print)


@pytest.mark.parametrize("max_failures", [0, 2])
def test_a_round_whose_workers_are_lost_is_tried_as_often_as_the_recipe_says(
    runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch, max_failures: int
) -> None:
    def lose(run: FakeRun, on_step: Any, done: Callable[[], bool]) -> None:
        raise EnvironmentProblemError("Its node is gone.", "It stays.", "Resume.")

    monkeypatch.setattr(FakeRun, "wait", lose)
    told: Told = []
    with (
        pytest.raises(EnvironmentProblemError, match="node is gone"),
        staying_workers(max_failures, told) as workers,
    ):
        workers.inject(FIRST, on_step=print)
    assert len(runs) == 1 + max_failures
    assert told == [LOST] * max_failures
    assert all(run.is_closed for run in runs)
