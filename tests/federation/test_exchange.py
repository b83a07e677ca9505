"""A client's loop, and what may be said of its errors."""

import errno
import re
from dataclasses import replace

import pytest

from fedkim_ray.config import LocalTrainingConfig
from fedkim_ray.errors import DataError
from fedkim_ray.federation.exchange import LocalExchange, describe_failure, serve_plans
from fedkim_ray.federation.objective import task_weights
from fedkim_ray.federation.plan import ClientFailure, RoundPlan
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import Params

PLAN = RoundPlan(round_index=2, client_id="north", seed=0, local=LocalTrainingConfig())
UPDATE = ClientUpdate(client_id="north", round_index=2, delta={}, num_examples={}, metrics={})


class Scripted:
    """A trainer that returns or raises what it is given."""

    def __init__(self, result: ClientUpdate | Exception) -> None:
        self.result = result

    def train_round(self, plan: RoundPlan, theta_global: Params) -> ClientUpdate:
        """Return or raise."""
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def score_round(self, plan: RoundPlan, theta_global: Params) -> ClientUpdate:
        """Say what was asked."""
        return replace(UPDATE, work=plan.work)


def test_a_client_answers_each_plan_and_ends_when_there_are_none() -> None:
    exchange = LocalExchange(PLAN, {})
    serve_plans(exchange, lambda _: Scripted(UPDATE))
    assert exchange.answer is UPDATE
    assert exchange.next_plan() is None


def test_a_client_does_what_the_plan_asks_for() -> None:
    plan = PLAN.model_copy(update={"work": "score_injected"})
    exchange = LocalExchange(plan, {})
    serve_plans(exchange, lambda _: Scripted(UPDATE))
    assert isinstance(exchange.answer, ClientUpdate)
    assert exchange.answer.work == "score_injected"
    assert describe_failure(plan, ValueError()).work == "score_injected"


def test_a_failure_says_which_attempt_it_ends() -> None:
    plan = PLAN.model_copy(update={"attempt": 1})
    assert describe_failure(plan, ValueError()).attempt == 1


def test_the_packages_own_errors_are_told_in_full() -> None:
    exchange = LocalExchange(PLAN, {})
    error = DataError("'a.parquet', row 3, column 'label' is empty.", "Never empty.", "Mend it.")
    serve_plans(exchange, lambda _: Scripted(error))
    assert exchange.answer == ClientFailure(
        client_id="north", round_index=2, code="DataError", message=str(error)
    )


def test_a_client_that_cannot_open_its_data_says_so() -> None:
    def broken(client_id: str) -> Scripted:
        raise FileNotFoundError(errno.ENOENT, "secret path", "/data/jane-doe.parquet")

    exchange = LocalExchange(PLAN, {})
    serve_plans(exchange, broken)
    assert isinstance(exchange.answer, ClientFailure)
    assert re.fullmatch(
        r"FileNotFoundError at federation/exchange.py:\d+\. No such file or directory",
        exchange.answer.message,
    )


@pytest.mark.parametrize("error", [ValueError("could not convert 'Jane Doe'"), KeyError("HIV")])
def test_a_foreign_errors_text_stays_with_the_client(error: Exception) -> None:
    failure = describe_failure(PLAN, error)
    assert failure.code == type(error).__name__
    assert "Jane" not in failure.message
    assert "HIV" not in failure.message


def test_a_foreign_error_is_placed_in_the_packages_own_code() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        task_weights({"mortality": 0})
    message = describe_failure(PLAN, caught.value).message
    assert re.fullmatch(r"ZeroDivisionError at federation/objective.py:\d+\.", message)


def test_plans_and_failures_are_plain_json() -> None:
    failure = describe_failure(PLAN, ValueError())
    assert RoundPlan.model_validate_json(PLAN.model_dump_json()) == PLAN
    assert ClientFailure.model_validate_json(failure.model_dump_json()) == failure
