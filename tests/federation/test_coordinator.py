"""Whole rounds with scripted clients and a clock that the script moves: no data, no Ray."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import pytest
import torch

from fedkim_ray.config import FederationConfig, FedProxConfig
from fedkim_ray.errors import RoundFailedError
from fedkim_ray.federation.clients import Delivered, Reply
from fedkim_ray.federation.coordinator import run_round
from fedkim_ray.federation.exchange import ClientFailure, RoundPlan
from fedkim_ray.federation.report import RoundReport
from fedkim_ray.federation.strategies import build_strategy
from fedkim_ray.federation.strategies.fedavg import FedAvg
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import Params

W = "encoders.image.w"
THETA = {W: torch.tensor([10.0])}
STATE = FedAvg().init(THETA)


def update(client_id: str, delta: float, num_examples: int = 1) -> ClientUpdate:
    return ClientUpdate(
        client_id=client_id,
        round_index=0,
        delta={W: torch.tensor([delta])},
        num_examples={"encoders.image": num_examples},
        metrics={"train/loss": 0.5, "seconds": 2.0},
    )


def failure(client_id: str, code: str = "DataError") -> ClientFailure:
    return ClientFailure(client_id=client_id, round_index=0, code=code, message="Row 3.")


def reply(answer: ClientUpdate | ClientFailure) -> Reply:
    if isinstance(answer, ClientFailure):
        return answer
    return Delivered(answer.client_id, answer.round_index, 4, lambda: answer)


@dataclass
class ScriptedClients:
    """Clients that answer as a script says: one list of answers an attempt, silence after it."""

    script: Sequence[Sequence[ClientUpdate | ClientFailure]]
    ids: Sequence[str] = ("a", "b")
    seed: int = 7
    now_s: float = 0.0
    asked: list[Mapping[str, RoundPlan]] = field(default_factory=list)
    ended: int = 0
    _answers: list[ClientUpdate | ClientFailure] = field(default_factory=list)

    def clock(self) -> float:
        """Seconds that the script says have passed."""
        return self.now_s

    def begin(self, plans: Mapping[str, RoundPlan], theta_global: Params) -> int:
        """Note who is asked, and take the script's next list."""
        self._answers = list(self.script[len(self.asked)])
        self.asked.append(plans)
        return 100 * len(plans)

    def replies(self, timeout_s: float) -> Iterator[Reply]:
        """Yield the next answer after a second, or nothing after the whole timeout."""
        self.now_s += 1.0 if self._answers else timeout_s
        if self._answers:
            yield reply(self._answers.pop(0))

    def end_round(self) -> None:
        """Count the end."""
        self.ended += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


def play(
    clients: ScriptedClients, min_clients: int = 1, events: list[Any] | None = None
) -> tuple[float, RoundReport]:
    """Run round 0 and return the parameter after it, and the report."""
    state, report = run_round(
        FedAvg(),
        STATE,
        clients,
        0,
        federation=FederationConfig(min_clients=min_clients, client_timeout_s=60.0),
        on_event=None if events is None else events.append,
        clock=clients.clock,
    )
    assert clients.ended == 1
    return state.params[W].item(), report


def test_a_round_plans_collects_and_aggregates() -> None:
    clients = ScriptedClients([[update("b", 8.0, 3), update("a", 4.0, 1)]])
    after, report = play(clients)
    assert after == 10.0 + (1 * 4.0 + 3 * 8.0) / 4
    assert [c.client_id for c in report.clients] == ["a", "b"]
    assert report.group_examples == {"encoders.image": 4}
    assert (report.bytes_up, report.bytes_down, report.seconds) == (8, 200, 2.0)
    assert (report.failures, report.num_retries) == ((), 0)


def test_the_order_of_arrival_does_not_matter() -> None:
    one, other = update("a", 0.1, 3), update("b", 0.7, 7)
    assert play(ScriptedClients([[one, other]]))[0] == play(ScriptedClients([[other, one]]))[0]


def test_a_plan_carries_the_round_the_seed_and_the_strategys_term() -> None:
    clients = ScriptedClients([[update("a", 1.0), update("b", 1.0)]])
    config = FederationConfig(strategy=FedProxConfig(mu=0.5))
    run_round(build_strategy(config.strategy), STATE, clients, 0, federation=config)
    assert clients.asked[0]["a"] == RoundPlan(
        round_index=0, client_id="a", seed=7, local=config.local, proximal_mu=0.5
    )


def test_a_failed_client_is_no_failed_round() -> None:
    after, report = play(ScriptedClients([[failure("a"), update("b", 8.0)]]))
    assert after == 18.0
    assert report.failures_by_cause == {"DataError": 1}


def test_a_slow_client_is_left_behind_after_the_timeout() -> None:
    after, report = play(ScriptedClients([[update("b", 8.0)]]))
    assert after == 18.0
    assert report.seconds == 60.0
    assert [(f.client_id, f.cause) for f in report.failures] == [("a", "ClientTimeout")]


def test_below_the_quorum_those_without_an_update_are_asked_once_more() -> None:
    clients = ScriptedClients([[failure("a"), update("b", 8.0)], [update("a", 4.0)]])
    after, report = play(clients, min_clients=2)
    assert after == 16.0
    assert [sorted(plans) for plans in clients.asked] == [["a", "b"], ["a"]]
    assert (report.num_retries, report.bytes_down) == (1, 300)


def test_a_round_that_fails_twice_stops_with_each_clients_reason() -> None:
    clients = ScriptedClients([[failure("a"), update("b", 8.0)], [failure("a", "ClientLost")]])
    with pytest.raises(RoundFailedError, match=r"1 usable updates .* a: ClientLost: Row 3\. .* 2;"):
        play(clients, min_clients=2)
    assert STATE.params[W].item() == 10.0


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (update("a", float("nan")), "ClientFailedError"),
        (replace(update("a", 1.0), delta={W: torch.ones(3)}), "ParamsMismatchError"),
        (replace(update("a", 1.0), delta={"extra": torch.ones(1)}), "ParamsMismatchError"),
    ],
)
def test_an_update_that_cannot_be_used_is_refused_and_counted(
    bad: ClientUpdate, cause: str
) -> None:
    after, report = play(ScriptedClients([[bad, update("b", 8.0)]]))
    assert after == 18.0
    assert report.failures_by_cause == {cause: 1}


def test_late_and_second_answers_change_nothing() -> None:
    late = replace(update("a", 100.0), round_index=5)
    script = [late, update("b", 8.0), update("b", 100.0), update("a", 4.0)]
    after, report = play(ScriptedClients([script]))
    assert after == 16.0
    assert report.late_updates == ("a",)


def test_a_report_is_json_and_comes_as_the_last_event() -> None:
    events: list[Any] = []
    _, report = play(ScriptedClients([[failure("a"), update("b", 8.0)]]), events=events)
    kinds = [event["event"] for event in events]
    assert kinds == ["round_started", "client_failed", "client_finished", "round_finished"]
    assert RoundReport.model_validate(json.loads(json.dumps(events[-1]["report"]))) == report
