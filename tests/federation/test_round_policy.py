"""Three clients, two needed, 60 s: every case of the policy."""

import pytest

from fedkim_ray.federation.round_policy import (
    Aggregate,
    Decision,
    Fail,
    Retry,
    RoundFacts,
    RoundPolicy,
    Wait,
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
