"""One federated round: plan, collect, validate, aggregate.

The coordinator knows neither data nor Ray. It hands plans to ``Clients``, lets a pure policy say
when to wait and when to go on, and folds what came into the server state.
"""

import time
from collections.abc import Callable, Mapping

from fedkim_ray.config import FederationConfig
from fedkim_ray.federation.aggregation import ServerState, Strategy
from fedkim_ray.federation.clients import Clients, OnEvent
from fedkim_ray.federation.exchange import RoundPlan
from fedkim_ray.federation.inbox import Inbox
from fedkim_ray.federation.report import RoundReport, export_metrics
from fedkim_ray.federation.round_policy import (
    Aggregate,
    Fail,
    Retry,
    RoundPolicy,
    Wait,
)
from fedkim_ray.types import ClientId, Params


def run_round(
    strategy: Strategy,
    state: ServerState,
    clients: Clients,
    round_index: int,
    *,
    federation: FederationConfig,
    on_event: OnEvent | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[ServerState, RoundReport]:
    """Run one round and return the state after it, and what happened.

    Args:
        strategy: How updates become the next state.
        state: The state before the round; it is not changed.
        clients: Who takes part.
        round_index: Number of the round, from 0.
        federation: Local training, quorum and timeout.
        on_event: Told when the round starts, when a client answers, and when the round ends.
        clock: Seconds from any origin.

    Raises:
        RoundFailedError: fewer than ``min_clients`` usable updates came, twice.
    """
    started = clock()
    inbox = Inbox(round_index, state.params, on_event)
    policy = RoundPolicy(
        min_clients=federation.min_clients, client_timeout_s=federation.client_timeout_s
    )
    plans = make_plans(clients, round_index, federation, strategy.proximal_mu)
    inbox.tell("round_started", clients=sorted(plans))
    try:
        collect(clients, plans, state.params, inbox, policy, clock)
        after = strategy.apply(state, inbox.updates())
    finally:
        clients.end_round()
    report = inbox.report(clock() - started)
    export_metrics(report)
    inbox.tell("round_finished", report=report.model_dump(mode="json"))
    return after, report


def make_plans(
    clients: Clients, round_index: int, federation: FederationConfig, proximal_mu: float
) -> dict[ClientId, RoundPlan]:
    """Return a plan for each client."""
    return {
        client_id: RoundPlan(
            round_index=round_index,
            client_id=client_id,
            seed=clients.seed,
            local=federation.local,
            proximal_mu=proximal_mu,
        )
        for client_id in clients.ids
    }


def collect(
    clients: Clients,
    plans: Mapping[ClientId, RoundPlan],
    theta_global: Params,
    inbox: Inbox,
    policy: RoundPolicy,
    clock: Callable[[], float],
) -> None:
    """Hand out the plans and take answers until the policy says that they suffice.

    A retry asks those alone whose update is missing: the others' would come again to the bit.

    Raises:
        RoundFailedError: the policy says that they will not suffice.
    """
    begun = clock()
    inbox.ask(plans, clients.begin(plans, theta_global))
    while True:
        elapsed_s = clock() - begun
        decision = policy.decide(inbox.facts(elapsed_s))
        if isinstance(decision, Wait):
            for reply in clients.replies(decision.timeout_s):
                inbox.take(reply)
            continue
        inbox.stop_waiting(elapsed_s)
        match decision:
            case Aggregate():
                return
            case Retry():
                begun = clock()
                missing = inbox.without_update(plans)
                inbox.ask_again(missing, clients.begin(missing, theta_global))
            case Fail():
                raise inbox.too_few(policy.min_clients)
