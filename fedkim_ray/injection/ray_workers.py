"""Injection workers that are started for each round, or whose processes stay for all of them.

Those that stay are one long Ray Train run: they ask a desk for the next round's plan, and the
round's manifest tells the driver that it is done.
"""

import asyncio
import gc
from types import TracebackType
from typing import Any, Self

import ray

from fedkim_ray.config import Recipe
from fedkim_ray.injection.ray_trainer import (
    InjectionPlan,
    InjectionRun,
    OnStep,
    inject_round,
    on_this_node,
    train_plan,
)
from fedkim_ray.storage import Folder, is_published


class InjectionWorkers:
    """The workers of a run's injection rounds.

    Args:
        recipe: ``injection.workers`` decides whether they stay.
        scratch: A folder for Ray Train's own bookkeeping.
    """

    def __init__(self, recipe: Recipe, scratch: str) -> None:
        self._recipe = recipe
        self._scratch = scratch
        self._desk: Any = None
        self._run: InjectionRun | None = None

    def inject(self, plan: InjectionPlan, on_step: OnStep) -> None:
        """Run one round of injection to its published end.

        Args:
            plan: What to do.
            on_step: Called in this process with (step over all rounds, loss).

        Raises:
            EnvironmentProblemError: the workers could not finish; the text has the cause.
        """
        if self._recipe.injection.workers == "each_round":
            inject_round(plan, self._scratch, on_step)
            return
        run = self._run or self._start()
        ray.get(self._desk.put.remote(plan))
        out = Folder.at(plan.out_url)
        run.wait(on_step, done=lambda: is_published(out))

    def __enter__(self) -> Self:
        """Return the workers; none is started before the first round."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let workers that stayed end; after an error without waiting for them."""
        if self._run is None or not ray.is_initialized():
            return
        with self._run as run:
            self._desk.close.remote()
            if error is None:
                run.wait(lambda step, loss: None)

    def _start(self) -> InjectionRun:
        injection = self._recipe.injection
        self._desk = ray.remote(Desk).options(**on_this_node()).remote()
        failures = injection.max_failures * self._recipe.federation.rounds
        config = {"desk": self._desk}
        self._run = InjectionRun(stay, config, injection, self._scratch, failures)
        return self._run


def stay(config: dict[str, Any]) -> None:
    """Train one round's plan after another in one worker; all ranks run this."""
    done = -1
    while (plan := ray.get(config["desk"].next_plan.remote(done))) is not None:
        if not is_published(Folder.at(plan.out_url)):  # workers may be lost just after its end
            train_plan(plan, config["progress"])
            gc.collect()  # the round's model is full of cycles, and the next one loads its own
        done = plan.round_index


class Desk:
    """Where the driver lays the next round's plan for workers that stay."""

    def __init__(self) -> None:
        self._plan: InjectionPlan | None = None
        self._closed = False
        self._changed = asyncio.Condition()

    async def put(self, plan: InjectionPlan) -> None:
        """Lay out a plan in place of the last."""
        self._plan = plan
        await self._notify()

    async def next_plan(self, done: int) -> InjectionPlan | None:
        """Wait for the plan of a round after ``done``; None when there will be no more."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._after(done))
        return None if self._closed else self._plan

    async def close(self) -> None:
        """Let every worker's next plan be None."""
        self._closed = True
        await self._notify()

    def _after(self, done: int) -> bool:
        return self._plan is not None and self._plan.round_index > done

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
