"""When a round starts, waits, goes on, is tried again or fails: facts in, decision out.

Nothing here waits or acts, so every case is tested as a table.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

MAX_RETRIES = 1
"""A round is asked for once more before the run stops: most failures pass, the others will not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFacts:
    """What is known of a round at one moment."""

    elapsed_s: float
    """Seconds since the plans of this attempt went out."""
    num_updates: int
    """Usable updates, from this attempt and those before."""
    num_waiting: int
    """Clients that have answered neither with an update nor with a failure."""
    num_gone: int = 0
    """Those of them whose node is gone."""
    num_retries: int = 0
    round_s: float = 0.0
    """Seconds since the round's first plans went out."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Take replies for at most this long, then decide again."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class Begin:
    """Hand out plans to those who are there."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Go on with the updates that came."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Send the plans once more to those without an update."""


@dataclass(frozen=True, slots=True)
class Fail:
    """Give the round up; the server state is as it was."""


Decision: TypeAlias = Wait | Aggregate | Retry | Fail


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPolicy:
    """Wait for all, but for no one longer than the timeout; go on with a quorum.

    A client whose node is gone may come back, but is waited for only where a quorum needs it.
    """

    min_clients: int
    """Fewest updates that make a round."""
    client_timeout_s: float
    """Infinite where clients are timed one by one, from when each got its plan."""
    round_deadline_s: float = math.inf
    """Seconds that a round may take with its retry."""

    def decide(self, facts: RoundFacts) -> Decision:
        """Return what to do now."""
        round_left_s = self.round_deadline_s - facts.round_s
        time_left_s = min(self.client_timeout_s - facts.elapsed_s, round_left_s)
        has_quorum = self.has_quorum(facts.num_updates)
        num_awaited = facts.num_waiting - (facts.num_gone if has_quorum else 0)
        if num_awaited and time_left_s > 0:
            return Wait(time_left_s)
        if has_quorum:
            return Aggregate()
        may_retry = facts.num_retries < MAX_RETRIES and round_left_s > 0
        return Retry() if may_retry else Fail()

    def has_quorum(self, num_updates: int) -> bool:
        """Return whether so many updates make a round: from then on nothing is asked again."""
        return num_updates >= self.min_clients


def decide_start(
    num_available: int, min_clients: int, elapsed_s: float, timeout_s: float
) -> Wait | Begin | Fail:
    """Return whether a round may start with the clients that are there.

    Args:
        num_available: Clients that are there now.
        min_clients: Fewest that make a round.
        elapsed_s: Seconds waited so far.
        timeout_s: Seconds to wait at most.
    """
    if num_available >= min_clients:
        return Begin()
    return Wait(timeout_s - elapsed_s) if elapsed_s < timeout_s else Fail()
