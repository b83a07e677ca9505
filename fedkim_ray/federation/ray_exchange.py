"""A member's end of the exchange within a Ray cluster, and its life there."""

import os
import threading
from typing import Any

import ray
import torch
from ray.exceptions import ActorDiedError

from fedkim_ray.federation.exchange import serve_plans
from fedkim_ray.federation.members import MemberId
from fedkim_ray.federation.plan import ClientFailure, RoundPlan
from fedkim_ray.federation.setup import Opener, PoolSetup
from fedkim_ray.federation.team import TeamExchange, team_of_process
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.federation.wire import decode_params, encode_update
from fedkim_ray.types import Params

HUNG = 75
"""Exit code of a process that ends itself because its client overran its time."""


def live(exchange: "RayExchange", setup: str, opener: Opener) -> None:
    """Serve plans until the run is over: the life of a member's process.

    Called again, after a crash or where the mailbox could not be reached for a while, a member asks
    for the plan that it has not answered.

    Args:
        exchange: The member's.
        setup: A ``PoolSetup`` as JSON, of all clients that the member may be asked to be.
        opener: Makes what opens these clients.

    Raises:
        ActorUnavailableError: the mailbox cannot be reached now.
    """
    pool = PoolSetup.model_validate_json(setup)
    torch.set_num_threads(pool.shared.threads)
    team = team_of_process()
    try:
        if team.rank == 0:
            exchange.join()
        own = exchange if team.size == 1 else TeamExchange(exchange, leads=team.rank == 0)
        serve_plans(own, opener(pool.of))
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

    def fail(self, failure: ClientFailure) -> None:
        """Say that there will be no update."""
        self._calm()
        self._let_go(ray.get(self._mailbox.fail.remote(failure)))

    def _let_go(self, more: bool) -> None:
        """Free the round's parameters, unless this slot will need them again."""
        if not more:
            self._theta_ref = self._theta_global = None

    def _calm(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _give_up(self, plan: RoundPlan) -> None:
        """End a process whose client hangs: another is started, which asks for a new plan."""
        said = f"It had not answered after {plan.timeout_s:.0f} s."
        failure = ClientFailure.of(plan, "ClientTimeout", said)
        try:
            ray.get(self._mailbox.fail.remote(failure), timeout=10.0)
        finally:
            os._exit(HUNG)
