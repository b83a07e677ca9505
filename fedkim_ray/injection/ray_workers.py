"""Injection workers that are started for each round, or whose processes stay for all of them.

Those that stay are one long Ray Train run: they load the base once, ask a desk for the next
round's plan, and the round's manifest tells the driver that it is done.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import ray

from fedkim_ray.config import Recipe
from fedkim_ray.errors import EnvironmentProblemError
from fedkim_ray.injection.ray_trainer import (
    InjectionRun,
    OnStep,
    inject_round,
    on_this_node,
    train_plan,
    worker_of,
)
from fedkim_ray.injection.worker import InjectionPlan
from fedkim_ray.storage import Folder, is_published

OnEvent = Callable[[Mapping[str, Any]], None]
END_TIMEOUT_S = 60.0
"""Seconds that workers that stayed get to end; what they were for is published by then."""


class InjectionWorkers:
    """The workers of a run's injection rounds.

    Args:
        recipe: ``injection.workers`` decides whether they stay.
        scratch: A folder for Ray Train's own bookkeeping.
        on_event: Told when workers that stayed were lost and the run goes on.
    """

    def __init__(
        self, recipe: Recipe, scratch: str, on_event: OnEvent = lambda event: None
    ) -> None:
        self._recipe = recipe
        self._scratch = scratch
        self._on_event = on_event
        self._desk: Any = None
        self._run: InjectionRun | None = None

    def inject(self, plan: InjectionPlan, on_step: OnStep) -> None:
        """Run one round of injection to its published end.

        Args:
            plan: What to do.
            on_step: Called in this process with (step over all rounds, loss).

        Raises:
            EnvironmentProblemError: the workers could not finish; the text has the cause.
            StorageError: they could not, since another driver took the run over.
        """
        try:
            self._inject(plan, on_step)
        except EnvironmentProblemError:
            if plan.claim is not None:
                plan.claim.require()
            raise

    def _inject(self, plan: InjectionPlan, on_step: OnStep) -> None:
        injection = self._recipe.injection
        if injection.workers == "each_round":
            inject_round(plan, self._scratch, on_step)
            return
        for failures_left in reversed(range(injection.max_failures + 1)):
            try:
                self._inject_staying(plan, on_step)
                return
            except EnvironmentProblemError as error:
                self._let_go()
                if not failures_left:
                    raise
                self._tell(error)

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
        self._desk.close.remote()
        if error is None:
            self._end()
        else:
            self._let_go()

    def _inject_staying(self, plan: InjectionPlan, on_step: OnStep) -> None:
        if self._run is not None and self._run.is_over:  # lost between rounds: no round's failure
            self._end()
        if self._run is None:
            self._desk = ray.remote(Desk).options(**on_this_node()).remote()
            # Ray Train would count failures over the whole run; the recipe counts them by round.
            injection, config = self._recipe.injection, {"desk": self._desk}
            self._run = InjectionRun(stay, config, injection, self._scratch, max_failures=0)
        ray.get(self._desk.put.remote(plan))
        out = Folder.at(plan.out_url)
        self._run.wait(on_step, done=lambda: is_published(out))

    def _end(self) -> None:
        """Wait for the workers' end; however it comes, their rounds are published."""
        assert self._run is not None
        deadline = time.monotonic() + END_TIMEOUT_S
        try:
            self._run.wait(lambda step, loss: None, done=lambda: time.monotonic() > deadline)
        except EnvironmentProblemError as error:
            self._tell(error)
        self._let_go()

    def _let_go(self) -> None:
        assert self._run is not None
        self._run.close()
        self._run = None

    def _tell(self, error: EnvironmentProblemError) -> None:
        self._on_event({"event": "injection_workers_lost", "message": error.came})


def stay(config: dict[str, Any]) -> None:
    """Train one round's plan after another in one worker; all ranks run this."""
    done, worker = -1, None
    while (plan := ray.get(config["desk"].next_plan.remote(done))) is not None:
        if not is_published(Folder.at(plan.out_url)):  # workers may be lost just after its end
            worker = worker or worker_of(plan)
            train_plan(worker, plan, config["progress"])
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
