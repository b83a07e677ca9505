"""When a round waits, goes on, is tried again or fails: facts in, decision out.

Nothing here waits or acts, so every case is tested as a table.
"""

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
    num_retries: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """Take replies for at most this long, then decide again."""

    timeout_s: float


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
    """Wait for all, but for no one longer than the timeout; go on with a quorum."""

    min_clients: int
    """Fewest updates that make a round."""
    client_timeout_s: float

    def decide(self, facts: RoundFacts) -> Decision:
        """Return what to do now."""
        time_left_s = self.client_timeout_s - facts.elapsed_s
        if facts.num_waiting and time_left_s > 0:
            return Wait(time_left_s)
        if facts.num_updates >= self.min_clients:
            return Aggregate()
        return Retry() if facts.num_retries < MAX_RETRIES else Fail()
