"""What the server asks of a client in a round, and what it hears where there is no update.

Values of a few words, without torch: whoever hands them on starts the sooner.
"""

from typing import Literal, TypeAlias

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat

from fedkim_ray.config import LocalTrainingConfig
from fedkim_ray.types import ClientId, Frozen

Work: TypeAlias = Literal["train", "score_aggregated", "score_injected"]
"""What a plan asks for: training, or scores of the parameters that come with it."""


class RoundPlan(Frozen):
    """What one client is to do in one round."""

    round_index: NonNegativeInt
    client_id: ClientId
    seed: NonNegativeInt
    """The run's seed; a client draws from (seed, round_index, client_id)."""
    local: LocalTrainingConfig
    proximal_mu: NonNegativeFloat = 0.0
    """mu of FedProx; 0 leaves the term out."""
    work: Work = "train"
    attempt: NonNegativeInt = 0
    """Times that the round was asked for before; the same answer is due each time, to the bit."""
    timeout_s: PositiveFloat | None = None
    """Seconds after which a client's process gives up and starts anew; never where None."""


class ClientFailure(Frozen):
    """Why a client has no update for a round, in words that hold no value of its data."""

    client_id: ClientId
    round_index: NonNegativeInt
    code: str
    """What metrics count it as: an error's class, or ``ClientTimeout`` or ``ClientLost``."""
    message: str
    work: Work = "train"
    attempt: NonNegativeInt = 0

    @classmethod
    def of(cls, plan: RoundPlan, code: str, message: str) -> "ClientFailure":
        """Return the failure of a plan."""
        return cls(
            client_id=plan.client_id,
            round_index=plan.round_index,
            code=code,
            message=message,
            work=plan.work,
            attempt=plan.attempt,
        )
