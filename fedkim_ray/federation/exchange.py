"""What a client and the server say to one another, whatever carries it.

A client asks for its next plan, gets the global parameters, and hands in an update or a failure;
the server never calls a client. So the same client runs in a plain loop, inside a Ray cluster, or
behind a hospital's firewall, and nothing here knows which.
"""

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeAlias

from fedkim_ray.errors import FedKimError
from fedkim_ray.federation.plan import ClientFailure, RoundPlan
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import ClientId, Params

PACKAGE = Path(__file__).parents[1]


class Exchange(Protocol):
    """One client's end of the exchange."""

    def next_plan(self) -> RoundPlan | None:
        """Wait for the next plan; None means that the run is over.

        A client that was restarted asks again and gets the plan that it has not answered.
        """
        ...

    def global_params(self) -> Params:
        """Return theta_global of the last plan."""
        ...

    def submit(self, update: ClientUpdate) -> None:
        """Hand in the answer to the last plan; returns once the server holds a copy."""
        ...

    def fail(self, failure: ClientFailure) -> None:
        """Say that there will be no update; it may end the process."""
        ...


class Trainer(Protocol):
    """What answers a plan; ``federation.client.Client`` is the one."""

    def train_round(self, plan: RoundPlan, theta_global: Params) -> ClientUpdate:
        """Train one round from the global parameters."""
        ...

    def score_round(self, plan: RoundPlan, theta_global: Params) -> ClientUpdate:
        """Score the global parameters; the update has metrics alone."""
        ...


OpenTrainer: TypeAlias = Callable[[ClientId], Trainer]
"""Gives the client that a plan is for; it is called for each plan and may cache."""


def serve_plans(exchange: Exchange, open_trainer: OpenTrainer) -> None:
    """Answer plans until there are no more: the whole life of a client, or of a slot of many.

    An error ends the round for this client, not the process, unless the exchange ends that: it is
    told to the server, and the next plan is asked for.
    """
    while (plan := exchange.next_plan()) is not None:
        try:
            update = answer(plan, open_trainer(plan.client_id), exchange.global_params())
        except Exception as error:
            exchange.fail(describe_failure(plan, error))
        else:
            exchange.submit(update)


def answer(plan: RoundPlan, trainer: Trainer, theta_global: Params) -> ClientUpdate:
    """Do what a plan asks for."""
    if plan.work == "train":
        return trainer.train_round(plan, theta_global)
    return trainer.score_round(plan, theta_global)


def describe_failure(plan: RoundPlan, error: Exception) -> ClientFailure:
    """Turn an error into what may leave the client.

    The package's own errors are written without data values. Any other error's text may quote the
    data (``could not convert 'Jane Doe' to float``), so its type and place alone are told.
    """
    if isinstance(error, FedKimError):
        message = str(error)
    else:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
        message = f"{type(error).__name__} at {_place(error)}. {reason}".strip()
    return ClientFailure.of(plan, type(error).__name__, message)


def _place(error: Exception) -> str:
    """Return file and line of this package where the error came from."""
    own = [
        f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(str(PACKAGE))
    ]
    return f"{Path(own[-1].filename).relative_to(PACKAGE)}:{own[-1].lineno}" if own else "unknown"


class LocalExchange:
    """An exchange of one plan with a client in the same process."""

    def __init__(self, plan: RoundPlan, theta_global: Params) -> None:
        self._plan: RoundPlan | None = plan
        self._theta_global = theta_global
        self.answer: ClientUpdate | ClientFailure | None = None

    def next_plan(self) -> RoundPlan | None:
        """Return the plan once, then None."""
        plan, self._plan = self._plan, None
        return plan

    def global_params(self) -> Params:
        """Return theta_global itself; a client copies it into its model."""
        return self._theta_global

    def submit(self, update: ClientUpdate) -> None:
        """Keep the update as the answer."""
        self.answer = update

    def fail(self, failure: ClientFailure) -> None:
        """Keep the failure as the answer."""
        self.answer = failure
