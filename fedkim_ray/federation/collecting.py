"""Asking clients and taking what comes, until the policy says that it suffices."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from fedkim_ray.errors import RoundFailedError
from fedkim_ray.federation.clients import Clients
from fedkim_ray.federation.inbox import Inbox
from fedkim_ray.federation.plan import RoundPlan
from fedkim_ray.federation.round_policy import (
    Aggregate,
    Begin,
    Fail,
    Retry,
    RoundPolicy,
    Wait,
    decide_start,
)
from fedkim_ray.federation.round_times import RoundTimes
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import ClientId, Params

POLL_S = 1.0
"""Seconds between two looks at which clients are there."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The time, and a way to let it pass; tests move their own."""

    now: Callable[[], float] = time.monotonic
    """Seconds from any origin."""
    sleep: Callable[[float], None] = time.sleep


def collect(
    clients: Clients,
    plans: Mapping[ClientId, RoundPlan],
    theta_global: Params,
    inbox: Inbox,
    policy: RoundPolicy,
    clock: Clock,
    times: RoundTimes,
) -> Iterator[ClientUpdate]:
    """Hand out the plans and yield the updates in client-id order, each as its turn comes.

    A retry asks those alone whose update is missing: the others' would come again to the bit.

    Raises:
        RoundFailedError: the policy says that they will not suffice.
    """
    begun = started = clock.now()
    inbox.ask(plans, clients.begin(plans, theta_global))
    gone: Collection[ClientId] = ()
    while True:
        now = clock.now()
        facts = inbox.facts(now - begun, now - started, gone)
        decision = policy.decide(facts)
        if isinstance(decision, Wait):
            silent = True
            for reply in times.waiting_for(clients.replies(decision.timeout_s)):
                silent = False
                with times.phase("collect"):
                    inbox.take(reply)
                yield from inbox.in_turn(policy.has_quorum(len(inbox.clients)))
            gone = set(plans).difference(clients.available) if silent else ()
            continue
        inbox.stop_waiting(facts.elapsed_s, gone)
        match decision:
            case Aggregate():
                yield from inbox.in_turn(failures_are_final=True)
                return
            case Retry():
                begun = clock.now()
                missing = inbox.next_attempt(plans)
                inbox.ask_again(missing, clients.begin(missing, theta_global))
            case Fail():
                raise inbox.too_few(policy.min_clients)


def wait_for_clients(
    clients: Clients, round_index: int, min_clients: int, timeout_s: float, clock: Clock
) -> list[ClientId]:
    """Return who is there, once that makes a round.

    Raises:
        RoundFailedError: too few came within the time.
    """
    begun = clock.now()
    while True:
        available, waited_s = list(clients.available), clock.now() - begun
        match decide_start(len(available), min_clients, waited_s, timeout_s):
            case Begin():
                return available
            case Wait(left_s):
                clock.sleep(min(POLL_S, left_s))
            case Fail():
                raise _nobody_there(round_index, available, clients, min_clients, waited_s)


def _nobody_there(
    round_index: int,
    available: list[ClientId],
    clients: Clients,
    min_clients: int,
    waited_s: float,
) -> RoundFailedError:
    absent = sorted(set(clients.ids) - set(available))
    return RoundFailedError(
        f"Round {round_index} cannot begin: after {waited_s:.0f} s {len(available)} of "
        f"{len(clients.ids)} clients are there; {', '.join(absent[:5])} are not.",
        f"A round needs {min_clients} (federation.min_clients, or the strategy's own bound).",
        "Bring their nodes back and resume, raise federation.join_timeout_s, or lower the quorum.",
    )
