"""The desk of workers that stay: a plan waits for its worker, a worker for its plan."""

import asyncio
from dataclasses import replace

from fedkim_ray.injection.ray_workers import Desk
from fedkim_ray.injection.worker import InjectionPlan
from fedkim_ray.recipe_files import load_recipe

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
