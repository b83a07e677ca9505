"""One federated round: sample, plan, collect, aggregate; and scores of what came of it.

The coordinator knows neither data nor Ray. It hands plans to ``Clients``, lets a pure policy say
when to wait and when to go on, and folds what comes into the server state.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from fedkim_ray.config import FederationConfig
from fedkim_ray.errors import RoundFailedError
from fedkim_ray.federation.aggregation import ServerState, Strategy
from fedkim_ray.federation.clients import Clients, OnEvent
from fedkim_ray.federation.collecting import Clock, collect, wait_for_clients
from fedkim_ray.federation.inbox import Inbox
from fedkim_ray.federation.plan import RoundPlan, Work
from fedkim_ray.federation.report import RoundReport, export_failures, export_metrics, task_means
from fedkim_ray.federation.round_policy import RoundPolicy
from fedkim_ray.federation.round_times import RoundTimes
from fedkim_ray.federation.sampling import number_to_sample, sample_clients
from fedkim_ray.federation.update import ClientUpdate, equally_weighted, without_groups
from fedkim_ray.types import ClientId, Params, TaskId, param_group

CLOCK = Clock()


def run_round(
    strategy: Strategy,
    state: ServerState,
    clients: Clients,
    round_index: int,
    *,
    federation: FederationConfig,
    on_event: OnEvent | None = None,
    clock: Clock = CLOCK,
) -> tuple[ServerState, RoundReport]:
    """Run one round and return the state after it, and what happened.

    Args:
        strategy: How updates become the next state.
        state: The state before the round; it is not changed.
        clients: Who takes part.
        round_index: Number of the round, from 0.
        federation: Sampling, local training, quorums and times.
        on_event: Told when the round starts, when a client answers, and when the round ends.
        clock: The time.

    Raises:
        RoundFailedError: too few clients were there, or too few usable updates came, twice.
    """
    started = clock.now()
    min_clients = max(federation.min_clients, strategy.min_updates)
    available = wait_for_clients(
        clients, round_index, min_clients, federation.join_timeout_s, clock
    )
    number = number_to_sample(federation, len(clients.ids))
    sampled = sample_clients(available, number, clients.seed, round_index)
    plans = make_plans(sampled, clients.seed, round_index, federation, strategy.proximal_mu)
    inbox = Inbox(
        round_index,
        state.params,
        on_event,
        max_update_norm=federation.max_update_norm,
        num_held=0 if strategy.needs_all else clients.num_at_once,
    )
    inbox.tell("round_started", clients=sampled, available=len(available))
    policy = round_policy(federation, min_clients, clients.times_each)
    times = RoundTimes(clock.now)
    try:
        updates = collect(clients, plans, state.params, inbox, policy, clock, times)
        if federation.weighting == "equal":
            updates = map(equally_weighted, updates)
        per_modality = federation.min_clients_per_modality
        after, kept = aggregate(strategy, state, updates, per_modality)
    except RoundFailedError:
        export_failures(inbox.failures, inbox.clients)
        raise
    finally:
        clients.end_round()
        inbox.close()
    seconds = clock.now() - started
    report = make_report(inbox, seconds, times, len(available), len(sampled), kept)
    export_metrics(report)
    if on_event:  # of thousands of clients the report is large
        inbox.tell("round_finished", report=report.model_dump(mode="json"))
    return after, report


def make_plans(
    client_ids: Collection[ClientId],
    seed: int,
    round_index: int,
    federation: FederationConfig,
    proximal_mu: float = 0.0,
    work: Work = "train",
) -> dict[ClientId, RoundPlan]:
    """Return a plan for each client."""
    return {
        client_id: RoundPlan(
            round_index=round_index,
            client_id=client_id,
            seed=seed,
            local=federation.local,
            proximal_mu=proximal_mu,
            work=work,
            timeout_s=federation.client_timeout_s,
        )
        for client_id in client_ids
    }


def round_policy(federation: FederationConfig, min_clients: int, times_each: bool) -> RoundPolicy:
    """Return the recipe's policy; clients that are timed one by one need no common timeout."""
    return RoundPolicy(
        min_clients=min_clients,
        client_timeout_s=math.inf if times_each else federation.client_timeout_s,
        round_deadline_s=federation.round_deadline_s or math.inf,
    )


def aggregate(
    strategy: Strategy, state: ServerState, updates: Iterable[ClientUpdate], min_per_modality: int
) -> tuple[ServerState, tuple[str, ...]]:
    """Fold updates into the state; return it, and the groups that too few clients trained.

    Those groups keep their parameters and their moments.
    """
    num_clients: Counter[str] = Counter()

    def counted() -> Iterator[ClientUpdate]:
        for update in updates:
            num_clients.update(group for group, n in update.num_examples.items() if n)
            yield update

    def short() -> tuple[str, ...]:
        needed = {g: _fewest(strategy, g, min_per_modality) for g in num_clients}
        return tuple(sorted(g for g, number in num_clients.items() if number < needed[g]))

    if strategy.needs_all:
        came = list(counted())
        kept = short()
        return strategy.apply(state, [without_groups(update, kept) for update in came]), kept
    after = strategy.apply(state, counted())
    return with_groups_of(after, state, short()), short()


def _fewest(strategy: Strategy, group: str, min_per_modality: int) -> int:
    """Return how many clients a group needs; heads follow the encoders that they read."""
    of_modality = min_per_modality if group.startswith("encoders.") else 1
    return max(strategy.min_updates, of_modality)


def with_groups_of(after: ServerState, before: ServerState, groups: Collection[str]) -> ServerState:
    """Return ``after`` with these groups' parameters and moments as they were before."""

    def restored(new: Params, old: Params) -> Params:
        return {n: old[n] if param_group(n) in groups else value for n, value in new.items()}

    return replace(
        after,
        params=restored(after.params, before.params),
        slots={slot: restored(new, before.slots[slot]) for slot, new in after.slots.items()},
    )


def score_params(
    clients: Clients,
    params: Params,
    round_index: int,
    work: Work,
    *,
    federation: FederationConfig,
    on_event: OnEvent | None = None,
    clock: Clock = CLOCK,
) -> dict[TaskId, dict[str, float]]:
    """Let every client that is there score parameters on its validation split.

    Returns:
        By task ``examples``, and the means of ``loss`` and ``auroc`` over clients, weighted by
        examples. Empty where no client answered: scores are news, not a step of the method.
    """
    plans = make_plans(clients.available, clients.seed, round_index, federation, work=work)
    inbox = Inbox(round_index, params, on_event, work=work, num_held=clients.num_at_once)
    inbox.tell("scoring_started", clients=sorted(plans), work=work)
    policy = round_policy(federation, 0, clients.times_each)
    try:
        for _ in collect(clients, plans, params, inbox, policy, clock, RoundTimes(clock.now)):
            pass  # an update of a scoring plan carries metrics alone, and the inbox has those
    finally:
        clients.end_round()
        inbox.close()
    return task_means(tuple(inbox.clients.values()))


def make_report(
    inbox: Inbox,
    seconds: float,
    times: RoundTimes,
    num_available: int,
    num_sampled: int,
    kept: tuple[str, ...],
) -> RoundReport:
    """Return what happened in a round."""
    clients = tuple(report for _, report in sorted(inbox.clients.items()))
    return RoundReport(
        round_index=inbox.round_index,
        seconds=seconds,
        phase_seconds=times.seconds,
        slowest_wait_s=times.slowest_wait_s,
        num_retries=inbox.num_retries,
        bytes_up=sum(client.bytes_up for client in clients),
        bytes_down=inbox.bytes_down,
        clients=clients,
        num_available=num_available,
        num_sampled=num_sampled,
        kept_groups=kept,
        num_spilled=inbox.num_spilled,
        failures=tuple(inbox.failures),
        late_updates=tuple(inbox.late),
        tasks=task_means(clients),
    )
