"""Three clients, two needed, 60 s: every case of the policy."""

import pytest

from fedkim_ray.federation.round_policy import (
    Aggregate,
    Begin,
    Decision,
    Fail,
    Retry,
    RoundFacts,
    RoundPolicy,
    Wait,
    decide_start,
)

POLICY = RoundPolicy(min_clients=2, client_timeout_s=60.0)


@pytest.mark.parametrize(
    ("elapsed_s", "num_updates", "num_waiting", "num_retries", "decision"),
    [
        (0.0, 0, 3, 0, Wait(60.0)),
        (45.0, 2, 1, 0, Wait(15.0)),  # the quorum is there, and so is time for the third
        (5.0, 3, 0, 0, Aggregate()),
        (5.0, 2, 0, 0, Aggregate()),  # the third failed
        (60.0, 2, 1, 0, Aggregate()),  # the third is too slow
        (5.0, 1, 0, 0, Retry()),
        (60.0, 1, 2, 0, Retry()),
        (5.0, 1, 0, 1, Fail()),
        (60.0, 0, 3, 1, Fail()),
        (5.0, 1, 1, 1, Wait(55.0)),
    ],
)
def test_decision(
    elapsed_s: float, num_updates: int, num_waiting: int, num_retries: int, decision: Decision
) -> None:
    facts = RoundFacts(
        elapsed_s=elapsed_s,
        num_updates=num_updates,
        num_waiting=num_waiting,
        num_retries=num_retries,
    )
    assert POLICY.decide(facts) == decision


@pytest.mark.parametrize(
    ("elapsed_s", "round_s", "num_updates", "num_retries", "decision"),
    [
        (0.0, 0.0, 0, 0, Wait(60.0)),
        (50.0, 50.0, 0, 0, Wait(10.0)),
        (10.0, 75.0, 1, 1, Wait(25.0)),  # the retry has what the first attempt left
        (10.0, 100.0, 2, 1, Aggregate()),
        (60.0, 100.0, 1, 0, Fail()),  # no time left to ask again
    ],
)
def test_a_deadline_bounds_the_round_with_its_retry(
    elapsed_s: float, round_s: float, num_updates: int, num_retries: int, decision: Decision
) -> None:
    policy = RoundPolicy(min_clients=2, client_timeout_s=60.0, round_deadline_s=100.0)
    facts = RoundFacts(
        elapsed_s=elapsed_s,
        round_s=round_s,
        num_updates=num_updates,
        num_waiting=1,
        num_retries=num_retries,
    )
    assert policy.decide(facts) == decision


@pytest.mark.parametrize(
    ("num_updates", "num_waiting", "num_gone", "decision"),
    [
        (2, 1, 1, Aggregate()),  # the third will not answer soon
        (2, 2, 1, Wait(55.0)),  # one of a fourth's neighbours still works
        (1, 2, 1, Wait(55.0)),
        (1, 1, 1, Wait(55.0)),  # without it there is no round, and it may come back
    ],
)
def test_a_client_whose_node_is_gone_is_waited_for_where_a_quorum_needs_it(
    num_updates: int, num_waiting: int, num_gone: int, decision: Decision
) -> None:
    facts = RoundFacts(
        elapsed_s=5.0, num_updates=num_updates, num_waiting=num_waiting, num_gone=num_gone
    )
    assert POLICY.decide(facts) == decision


@pytest.mark.parametrize(
    ("num_available", "elapsed_s", "decision"),
    [
        (3, 0.0, Begin()),
        (2, 0.0, Begin()),
        (1, 0.0, Wait(30.0)),
        (1, 20.0, Wait(10.0)),
        (1, 30.0, Fail()),
        (2, 30.0, Begin()),
    ],
)
def test_a_round_starts_with_a_quorum(
    num_available: int, elapsed_s: float, decision: Decision | Begin
) -> None:
    assert decide_start(num_available, 2, elapsed_s, timeout_s=30.0) == decision
