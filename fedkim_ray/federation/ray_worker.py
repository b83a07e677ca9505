"""What runs in a client's or a slot's Ray Train worker, and the actor that it talks to."""

import os
import threading
import time
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import ActorDiedError

from fedkim_ray.federation.exchange import ClientFailure, RoundPlan, serve_plans
from fedkim_ray.federation.mailbox import Mailbox, Payload
from fedkim_ray.federation.members import MemberId
from fedkim_ray.federation.setup import Opener, PoolSetup
from fedkim_ray.federation.team import TeamExchange, team_of_process
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.federation.wire import decode_params, encode_update
from fedkim_ray.types import Params

HUNG = 75
"""Exit code of a worker that ends itself because its client overran its time."""

REPORT_EVERY_S = 10.0
"""Seconds between two reports to Ray Train, whose controller takes one every two: a faster client
would wait for it. Every update reaches the driver, its log and its metrics without them."""


def run_member(member: MemberId, mailbox: Any, setup: str, opener: Opener) -> None:
    """Serve plans until the run is over: the train function of a member's Ray Train run.

    After a crash Ray Train calls it again, and the member asks for the plan it has not answered; so
    it does where the mailbox could not be reached for a while.
    """
    pool = PoolSetup.model_validate_json(setup)
    torch.set_num_threads(pool.shared.threads)
    team = team_of_process()
    own, leads = RayExchange(member, mailbox), team.rank == 0
    try:
        if leads:
            own.join()
        exchange = own if team.size == 1 else TeamExchange(own, leads)
        serve_plans(exchange, opener(pool.of))
    except ActorDiedError:
        return  # the mailbox is gone, and with it the run


class RayExchange:
    """A member's end of the exchange within one Ray cluster, which is one trust domain."""

    def __init__(self, member: MemberId, mailbox: Any) -> None:
        self._member = member
        self._mailbox = mailbox
        self._theta_ref: Any = None
        self._theta_global: Params | None = None
        self._watchdog: threading.Timer | None = None
        self._reported_s = -REPORT_EVERY_S

    def join(self) -> None:
        """Say that this process is there."""
        node = ray.get_runtime_context().get_node_id()
        ray.get(self._mailbox.join.remote(self._member, node, os.getpid()))

    def next_plan(self) -> RoundPlan | None:
        """Wait for the next plan; None when the run is over."""
        answer: tuple[RoundPlan, list[Any]] | None
        answer = ray.get(self._mailbox.next_plan.remote(self._member))
        if answer is None:
            return None
        plan, [theta_ref] = answer
        if theta_ref != self._theta_ref:
            self._theta_ref, self._theta_global = theta_ref, None
        if plan.timeout_s is not None:
            self._watchdog = threading.Timer(plan.timeout_s, self._give_up, [plan])
            self._watchdog.daemon = True
            self._watchdog.start()
        return plan

    def global_params(self) -> Params:
        """Return theta_global of the last plan, as views of the object store's memory."""
        if self._theta_global is None:
            self._theta_global = decode_params(ray.get(self._theta_ref))
        return self._theta_global

    def submit(self, update: ClientUpdate) -> None:
        """Hand in the update; returns once the mailbox owns a copy."""
        self._calm()
        data = encode_update(update)
        more = ray.get(
            self._mailbox.submit.remote(
                update.client_id, update.round_index, update.work, data, len(data)
            )
        )
        self._let_go(more)
        self._report(update)

    def fail(self, failure: ClientFailure) -> None:
        """Say that there will be no update."""
        self._calm()
        self._let_go(ray.get(self._mailbox.fail.remote(failure)))

    def _report(self, update: ClientUpdate) -> None:
        """Tell Ray Train the client's metrics, for its own dashboard and callbacks."""
        now = time.monotonic()
        alone = ray.train.get_context().get_world_size() == 1  # others would have to report, too
        if alone and now - self._reported_s >= REPORT_EVERY_S:
            self._reported_s = now
            ray.train.report(dict(update.metrics))

    def _let_go(self, more: bool) -> None:
        """Free the round's parameters, unless this slot will need them again."""
        if not more:
            self._theta_ref = self._theta_global = None

    def _calm(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _give_up(self, plan: RoundPlan) -> None:
        """End a process whose client hangs: Ray Train starts another, which asks for a new plan."""
        said = f"It had not answered after {plan.timeout_s:.0f} s."
        failure = ClientFailure.of(plan, "ClientTimeout", said)
        try:
            ray.get(self._mailbox.fail.remote(failure), timeout=10.0)
        finally:
            os._exit(HUNG)


class OwningMailbox(Mailbox):
    """The mailbox as a Ray actor on the driver's node."""

    def __init__(self, pooled: bool, idle_timeout_s: float) -> None:
        super().__init__(pooled, idle_timeout_s)
        self._controllers: list[Any] = []
        self._placements: list[Any] = []

    def keep(self, payload: Payload) -> Payload:
        """Put the update into this actor's ownership: a worker's objects die with the worker.

        The reference travels in a list, so that Ray hands on the reference and not the data.
        """
        return [ray.put(payload)]

    async def add_controller(self, controller: Any) -> None:
        """Note the controller of a member's Ray Train run."""
        self._controllers.append(controller)

    async def controllers(self) -> list[Any]:
        """Return the controllers of all runs."""
        return self._controllers

    async def add_placement(self, placement: Any) -> None:
        """Note the placement group that a member's workers stand in."""
        self._placements.append(placement)

    async def placements(self) -> list[Any]:
        """Return all placement groups that members ever had."""
        return self._placements


RayMailbox: Any = ray.remote(OwningMailbox)
