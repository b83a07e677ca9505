"""Whole rounds with scripted clients and a clock that the script moves: no data, no Ray."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import pytest
import torch

from fedkim_ray import telemetry
from fedkim_ray.config import FederationConfig, FedProxConfig
from fedkim_ray.errors import RoundFailedError
from fedkim_ray.federation.aggregation import Strategy
from fedkim_ray.federation.clients import Delivered, Reply
from fedkim_ray.federation.collecting import Clock
from fedkim_ray.federation.coordinator import run_round, score_params
from fedkim_ray.federation.plan import ClientFailure, RoundPlan
from fedkim_ray.federation.report import RoundReport
from fedkim_ray.federation.sampling import sample_clients
from fedkim_ray.federation.strategies import build_strategy
from fedkim_ray.federation.strategies.fedavg import FedAvg
from fedkim_ray.federation.strategies.fedavgm import FedAvgM
from fedkim_ray.federation.strategies.krum import Krum
from fedkim_ray.federation.strategies.median import Median
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import Params

W = "encoders.image.w"
THETA = {W: torch.tensor([10.0])}
AVERAGE = FedAvg()
STATE = AVERAGE.init(THETA)


def update(client_id: str, delta: float, num_examples: int = 1) -> ClientUpdate:
    return ClientUpdate(
        client_id=client_id,
        round_index=0,
        delta={W: torch.tensor([delta])},
        num_examples={"encoders.image": num_examples},
        metrics={"train/loss": 0.5, "seconds": 2.0},
    )


def failure(client_id: str, code: str = "DataError", attempt: int = 0) -> ClientFailure:
    return ClientFailure(
        client_id=client_id, round_index=0, code=code, message="Row 3.", attempt=attempt
    )


def reply(answer: ClientUpdate | ClientFailure) -> Reply:
    if isinstance(answer, ClientFailure):
        return answer
    return Delivered(answer.client_id, answer.round_index, 4, lambda: answer, answer.work)


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

    num_at_once: int = 1
    times_each: bool = False
    appear_s: Mapping[str, float] = field(default_factory=dict)
    """When clients come that are not there from the start."""
    leave_s: Mapping[str, float] = field(default_factory=dict)
    """When clients' nodes are lost."""

    @property
    def clock(self) -> Clock:
        """A clock that the script moves."""
        return Clock(lambda: self.now_s, self.sleep)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds

    @property
    def available(self) -> Sequence[str]:
        """Those that are there now."""
        came = [c for c in self.ids if self.now_s >= self.appear_s.get(c, 0.0)]
        return [c for c in came if self.now_s < self.leave_s.get(c, math.inf)]

    def begin(self, plans: Mapping[str, RoundPlan], theta_global: Params) -> int:
        """Note who is asked, and take the script's next list."""
        self._answers = list(self.script[len(self.asked)])
        self.asked.append(plans)
        return 100 * len(plans)

    def replies(self, timeout_s: float) -> Iterator[Reply]:
        """Yield the next answer after a second, or nothing after five, or the whole timeout."""
        self.now_s += 1.0 if self._answers else min(timeout_s, 5.0)
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
    clients: ScriptedClients,
    events: list[Any] | None = None,
    strategy: Strategy = AVERAGE,
    **changes: Any,
) -> tuple[float, RoundReport]:
    """Run round 0 and return the parameter after it, and the report."""
    state, report = run_round(
        strategy,
        STATE,
        clients,
        0,
        federation=FederationConfig(client_timeout_s=60.0, **changes),
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


def test_a_rounds_seconds_are_told_apart_and_the_wait_for_the_slowest() -> None:
    # b answers after 1 s, a never: 60 s of training, 59 of them after half of the answers.
    _, report = play(ScriptedClients([[update("b", 8.0)]]))
    assert report.phase_seconds == {"train": 60.0, "collect": 0.0, "aggregate": 0.0}
    assert report.slowest_wait_s == 59.0


def test_the_order_of_arrival_does_not_matter() -> None:
    one, other = update("a", 0.1, 3), update("b", 0.7, 7)
    assert play(ScriptedClients([[one, other]]))[0] == play(ScriptedClients([[other, one]]))[0]


def test_a_plan_carries_the_round_the_seed_and_the_strategys_term() -> None:
    clients = ScriptedClients([[update("a", 1.0), update("b", 1.0)]])
    config = FederationConfig(strategy=FedProxConfig(mu=0.5))
    run_round(build_strategy(config.strategy), STATE, clients, 0, federation=config)
    assert clients.asked[0]["a"] == RoundPlan(
        round_index=0, client_id="a", seed=7, local=config.local, proximal_mu=0.5, timeout_s=600.0
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


def test_a_client_whose_node_is_lost_is_left_behind_at_once() -> None:
    # b answers after 1 s; a's node is lost after 3, and seen to be after the next 5 s of silence.
    clients = ScriptedClients([[update("b", 8.0)]], leave_s={"a": 3.0})
    after, report = play(clients)
    assert (after, report.seconds) == (18.0, 6.0)
    assert [(f.client_id, f.cause) for f in report.failures] == [("a", "ClientLost")]


def test_a_quorum_waits_for_a_lost_node_to_come_back() -> None:
    clients = ScriptedClients([[update("b", 8.0)], []], leave_s={"a": 3.0})
    with pytest.raises(RoundFailedError, match="a: ClientLost: Its node is gone"):
        play(clients, min_clients=2)
    assert clients.now_s == 120.0  # both attempts had their whole time


def test_below_the_quorum_those_without_an_update_are_asked_once_more() -> None:
    clients = ScriptedClients([[failure("a"), update("b", 8.0)], [update("a", 4.0)]])
    after, report = play(clients, min_clients=2)
    assert after == 16.0
    assert [sorted(plans) for plans in clients.asked] == [["a", "b"], ["a"]]
    assert [plans["a"].attempt for plans in clients.asked] == [0, 1]
    assert (report.num_retries, report.bytes_down) == (1, 300)


def test_the_first_attempts_late_failure_is_no_answer_to_the_second() -> None:
    late = failure("a", "ClientTimeout")
    clients = ScriptedClients([[update("b", 8.0)], [late, update("a", 4.0)]])
    after, report = play(clients, min_clients=2)
    assert after == 16.0
    assert [f.message for f in report.failures] == ["It had not answered after 60 s."]


def test_a_round_that_fails_twice_stops_with_each_clients_reason() -> None:
    script = [[failure("a"), update("b", 8.0)], [failure("a", "ClientLost", attempt=1)]]
    clients = ScriptedClients(script)
    with pytest.raises(
        RoundFailedError, match=r"1 usable updates .* a: ClientLost: Row 3\. .* 2 \("
    ):
        play(clients, min_clients=2)
    assert STATE.params[W].item() == 10.0


def test_the_failures_of_a_round_that_stops_the_run_are_exported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(telemetry, "_ray_is_up", lambda: False)
    script = [[failure("a"), update("b", 8.0)], [failure("a", "Fatal", attempt=1)]]
    clients = ScriptedClients(script)
    with pytest.raises(RoundFailedError):
        play(clients, min_clients=2)
    told = 'fedkim_client_failures_total{cause="Fatal",client="a"} 1.0'
    assert told in telemetry.render().decode()


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


def test_a_client_counts_as_often_as_it_has_examples_or_once() -> None:
    script = [[update("a", 4.0, 1), update("b", 8.0, 3)]]
    assert play(ScriptedClients(script))[0] == 17.0
    assert play(ScriptedClients(script), weighting="equal")[0] == 16.0


def test_a_round_asks_a_sample_of_those_that_are_there() -> None:
    ids = ("a", "b", "c", "d")
    clients = ScriptedClients([[]], ids=ids, appear_s={"c": 1e9})
    with pytest.raises(RoundFailedError):
        play(clients, clients_per_round=2, round_deadline_s=1.0)
    asked = sorted(clients.asked[0])
    assert asked == sample_clients(["a", "b", "d"], 2, seed=7, round_index=0)


def test_a_round_waits_for_a_quorum_to_appear_and_not_for_ever() -> None:
    script = [[update("a", 4.0), update("b", 8.0)]]
    clients = ScriptedClients(script, appear_s={"b": 12.0})
    after, report = play(clients, min_clients=2, join_timeout_s=20.0)
    assert (after, report.num_available) == (16.0, 2)
    clients = ScriptedClients(script, appear_s={"b": 30.0})
    with pytest.raises(RoundFailedError, match=r"after 20 s 1 of 2 clients are there; b are not"):
        run_round(
            AVERAGE,
            STATE,
            clients,
            0,
            federation=FederationConfig(min_clients=2, join_timeout_s=20.0),
            clock=clients.clock,
        )


def test_the_deadline_ends_a_round_with_its_retry() -> None:
    clients = ScriptedClients([[failure("a"), update("b", 8.0)], []])
    with pytest.raises(RoundFailedError, match="1 usable updates after 1 retry"):
        play(clients, min_clients=2, round_deadline_s=30.0)
    assert clients.now_s == 30.0


def test_an_update_above_the_largest_norm_is_refused() -> None:
    script = [[update("a", 1e6), update("b", 8.0)]]
    after, report = play(ScriptedClients(script), max_update_norm=10.0)
    assert (after, report.failures_by_cause) == (18.0, {"UpdateNormError": 1})


def test_an_encoder_that_too_few_clients_trained_keeps_its_values() -> None:
    head = "heads.covid19.w"
    state = FedAvgM(eta=1.0, beta=0.5).init({**THETA, head: torch.tensor([0.0])})
    both = replace(
        update("a", 4.0),
        delta={W: torch.tensor([4.0]), head: torch.tensor([2.0])},
        num_examples={"encoders.image": 1, "heads.covid19": 1},
    )
    clients = ScriptedClients([[both]], ids=("a",))
    federation = FederationConfig(min_clients_per_modality=2)
    after, report = run_round(
        FedAvgM(eta=1.0, beta=0.5), state, clients, 0, federation=federation, clock=clients.clock
    )
    assert report.kept_groups == ("encoders.image",)
    assert (after.params[W].item(), after.slots["momentum"][W].item()) == (10.0, 0.0)
    assert (after.params[head].item(), after.slots["momentum"][head].item()) == (2.0, 2.0)


def test_a_group_below_a_robust_strategys_bound_is_left_out_and_not_fatal() -> None:
    ids = ("a", "b", "c", "d")
    idle = [replace(update(c, 9.0), num_examples={"encoders.image": 0}) for c in ids[:2]]
    clients = ScriptedClients([[*idle, update("c", 1.0), update("d", 1.0)]], ids=ids)
    after, report = play(clients, strategy=Krum(num_faulty=0))
    assert (after, report.kept_groups) == (10.0, ("encoders.image",))
    few = ScriptedClients([[update("a", 1.0)], []], ids=("a", "b", "c"))
    with pytest.raises(RoundFailedError, match="1 usable updates after 1 retry"):
        play(few, strategy=Krum(num_faulty=0))


@pytest.mark.parametrize(
    ("strategy", "num_at_once", "num_spilled"),
    # e comes first and a last: with two places in memory e and d wait there, c and b on disk, and
    # a's turn has come when it does. A strategy that needs all compares them from disk.
    [(FedAvg(), 2, 2), (FedAvg(), 4, 0), (Median(), 4, 5)],
)
def test_updates_wait_for_their_turn_on_disk(
    strategy: Strategy, num_at_once: int, num_spilled: int
) -> None:
    ids = ("a", "b", "c", "d", "e")
    script = [[update(c, float(k)) for k, c in enumerate(ids)][::-1]]
    after, report = play(
        ScriptedClients(script, ids=ids, num_at_once=num_at_once), strategy=strategy
    )
    assert after == 12.0  # mean and median of 0 1 2 3 4
    assert report.num_spilled == num_spilled


def test_an_update_that_waits_in_memory_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def once(answer: ClientUpdate) -> Delivered:
        def load() -> ClientUpdate:
            loaded.append(answer.client_id)
            return answer

        return Delivered(answer.client_id, answer.round_index, 4, load, answer.work)

    monkeypatch.setattr(sys.modules[__name__], "reply", once)
    after, _ = play(ScriptedClients([[update("b", 1.0), update("a", 1.0)]], num_at_once=2))
    assert (after, loaded) == (11.0, ["b", "a"])


def test_clients_score_parameters_and_the_server_averages() -> None:
    def scored(client_id: str, auroc: float, examples: float) -> ClientUpdate:
        return ClientUpdate(
            client_id=client_id,
            round_index=0,
            delta={},
            num_examples={},
            metrics={"valid/covid19/auroc": auroc, "valid/covid19/examples": examples},
            work="score_injected",
        )

    late = replace(update("b", 1.0))  # of the training before it
    clients = ScriptedClients([[late, scored("a", 0.5, 1.0), scored("b", 0.9, 3.0)]])
    scores = score_params(
        clients, THETA, 0, "score_injected", federation=FederationConfig(), clock=clients.clock
    )
    # (1 * 0.5 + 3 * 0.9) / 4 = 0.8
    assert scores == {"covid19": {"examples": 4.0, "auroc": pytest.approx(0.8)}}
    assert clients.asked[0]["a"].work == "score_injected"


def test_scores_are_news_and_no_reason_to_stop() -> None:
    clients = ScriptedClients([[failure("a").model_copy(update={"work": "score_injected"})]])
    scores = score_params(
        clients, THETA, 0, "score_injected", federation=FederationConfig(), clock=clients.clock
    )
    assert scores == {}
