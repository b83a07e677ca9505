"""The fault matrix, without Ray: clients that break in every way, and a driver killed everywhere.

Trainers are arithmetic here, so that a whole run takes milliseconds and its result is known; the
loop, the inbox, the strategies and the files are the real ones.
"""

import errno
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest
import torch

from fedkim_ray.config import FederationConfig
from fedkim_ray.errors import EnvironmentProblemError, RoundFailedError, TrainingDivergedError
from fedkim_ray.federation.aggregation import ServerState, Strategy
from fedkim_ray.federation.clients import Event, Reply
from fedkim_ray.federation.collecting import Clock
from fedkim_ray.federation.coordinator import run_round
from fedkim_ray.federation.local_clients import LocalClients
from fedkim_ray.federation.plan import ClientFailure, RoundPlan
from fedkim_ray.federation.report import RoundReport
from fedkim_ray.federation.round_files import publish_aggregated, read_aggregated
from fedkim_ray.federation.setup import ClientSetup, SetupOf
from fedkim_ray.federation.strategies import build_strategy
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.storage import Folder, is_published
from fedkim_ray.types import Params

W = "encoders.image.w"
IDS = ("a", "b", "c", "d", "e")
PULL = {client_id: float(k) for k, client_id in enumerate(IDS)}
"""Where each client draws the parameter: half the way to 0, 1, 2, 3, 4 in each round."""
ROUNDS = 2


class Pulling:
    """A client that takes the parameter half the way to its own number."""

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id

    def train_round(self, plan: RoundPlan, theta_global: Params) -> ClientUpdate:
        """Return half the way."""
        return ClientUpdate(
            client_id=self.client_id,
            round_index=plan.round_index,
            delta={W: (PULL[self.client_id] - theta_global[W]) / 2},
            num_examples={"encoders.image": 1},
            metrics={},
        )

    def score_round(self, plan: RoundPlan, theta_global: Params) -> ClientUpdate:
        """Nothing is scored here."""
        raise AssertionError(plan.work)


Change = Callable[[ClientUpdate], ClientUpdate]


def with_tensor(name: str, value: torch.Tensor) -> Change:
    return lambda update: replace(update, delta={**update.delta, name: value})


def diverged(update: ClientUpdate) -> ClientUpdate:
    raise TrainingDivergedError("The loss is nan.", "It is finite.", "Lower the rate.")


def foreign(update: ClientUpdate) -> ClientUpdate:
    raise ValueError("could not convert 'Jane Doe'")


BAD: Mapping[str, tuple[Change, str]] = {
    "NaN": (with_tensor(W, torch.tensor([math.nan, 0.0])), "ClientFailedError"),
    "infinite": (with_tensor(W, torch.tensor([0.0, math.inf])), "ClientFailedError"),
    "wrong shape": (with_tensor(W, torch.zeros(3)), "ParamsMismatchError"),
    "wrong dtype": (with_tensor(W, torch.zeros(2).double()), "ParamsMismatchError"),
    "extra tensor": (with_tensor("rows", torch.zeros(9)), "ParamsMismatchError"),
    "missing tensor": (lambda u: replace(u, delta={}), "ClientFailedError"),
    "norm of 1e6": (with_tensor(W, torch.tensor([1e6, 0.0])), "UpdateNormError"),
    "negative count": (
        lambda u: replace(u, num_examples={"encoders.image": -5}),
        "ClientFailedError",
    ),
    "loss diverged": (diverged, "TrainingDivergedError"),
    "foreign error": (foreign, "ValueError"),
}
"""What client c does instead, and the cause that is counted."""


class Spoiling(Pulling):
    """A client whose update is changed on its way out."""

    def __init__(self, client_id: str, change: Change) -> None:
        super().__init__(client_id)
        self.change = change

    def train_round(self, plan: RoundPlan, theta_global: Params) -> ClientUpdate:
        """Return what the fault makes of the update."""
        return self.change(super().train_round(plan, theta_global))


class Clients(LocalClients):
    """The plain loop, in which client c may fall silent: it is killed or hangs."""

    def __init__(self, change: Change | None = None, silent: bool = False, ids=IDS) -> None:
        def opener(_: SetupOf) -> Callable[[str], Pulling]:
            return lambda c: Spoiling(c, change) if change and c == "c" else Pulling(c)

        setups = [ClientSetup.model_construct(client_id=client_id) for client_id in ids]
        super().__init__(setups, seed=7, opener=opener)
        self.silent = silent
        self.now_s = 0.0

    @property
    def clock(self) -> Clock:
        """A clock that moves when the server waits in vain."""
        return Clock(lambda: self.now_s, lambda s: None)

    def replies(self, timeout_s: float) -> Iterator[Reply]:
        """Answer for all but a silent client; once only that one is left, time passes."""
        if self.silent:
            self._waiting.pop("c", None)
        if not self._waiting:
            self.now_s += timeout_s
        yield from super().replies(timeout_s)


FEDERATION = FederationConfig(max_update_norm=100.0, client_timeout_s=60.0, min_clients=2)
START = {W: torch.tensor([10.0, 20.0])}


def federate(
    clients: Clients,
    folder: Folder,
    federation: FederationConfig = FEDERATION,
    on_event: Callable[[Event], None] | None = None,
    strategy: Strategy | None = None,
) -> tuple[ServerState, list[RoundReport]]:
    """Run all rounds, each from what was published, as the pipeline does."""
    strategy = strategy or build_strategy(federation.strategy)
    reports = []
    for r in range(ROUNDS):
        if is_published(folder / str(r)):
            continue
        before = read_aggregated(folder / str(r - 1)) if r else strategy.init(START)
        state, report = run_round(
            strategy,
            before,
            clients,
            r,
            federation=federation,
            on_event=on_event,
            clock=clients.clock,
        )
        publish_aggregated(folder / str(r), state, report.model_dump(mode="json"))
        reports.append(report)
    return read_aggregated(folder / str(ROUNDS - 1)), reports


def result_without_c(folder: Path) -> Params:
    return federate(Clients(ids=tuple(i for i in IDS if i != "c")), Folder.at(folder))[0].params


@pytest.mark.parametrize("fault", BAD)
def test_a_client_that_breaks_is_left_out_and_the_run_goes_on(fault: str, tmp_path: Path) -> None:
    change, cause = BAD[fault]
    state, reports = federate(Clients(change), Folder.at(tmp_path / "run"))
    assert torch.equal(state.params[W], result_without_c(tmp_path / "other")[W])
    assert [report.failures_by_cause for report in reports] == [{cause: 1}] * ROUNDS
    assert "Jane" not in str(reports)


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam", "fedyogi", "median"])
def test_a_silent_client_is_left_behind_whatever_the_strategy(
    strategy: str, tmp_path: Path
) -> None:
    federation = FEDERATION.model_copy(
        update=dict(FederationConfig.model_validate({"strategy": {"name": strategy}}))
        | {"client_timeout_s": 60.0}
    )
    _, reports = federate(Clients(silent=True), Folder.at(tmp_path), federation)
    assert [report.failures_by_cause for report in reports] == [{"ClientTimeout": 1}] * ROUNDS
    assert [report.seconds for report in reports] == [60.0] * ROUNDS


def test_a_huge_update_of_five_does_not_move_the_median_far(tmp_path: Path) -> None:
    federation = FederationConfig.model_validate({"strategy": {"name": "median"}})
    lie = with_tensor(W, torch.tensor([1e6, -1e6]))
    state, _ = federate(Clients(lie), Folder.at(tmp_path), federation)
    # The others draw 10 half the way to 0, 1, 3, 4: the median lies among them.
    assert 0.0 < state.params[W][0].item() < 10.0


def test_a_client_killed_after_it_was_acknowledged_loses_nothing(tmp_path: Path) -> None:
    class Dying(Clients):
        def replies(self, timeout_s: float) -> Iterator[Reply]:
            for reply in super().replies(timeout_s):
                yield reply
                yield ClientFailure(
                    client_id=reply.client_id,
                    round_index=reply.round_index,
                    code="ClientLost",
                    message="Its process is gone.",
                )

    state, reports = federate(Dying(), Folder.at(tmp_path / "run"))
    expected, _ = federate(Clients(), Folder.at(tmp_path / "other"))
    assert torch.equal(state.params[W], expected.params[W])
    assert all(report.failures == () for report in reports)


@pytest.mark.parametrize("fault", ["NaN", "loss diverged"])
def test_without_a_quorum_the_run_stops_with_one_error_and_keeps_its_rounds(
    fault: str, tmp_path: Path
) -> None:
    federation = FEDERATION.model_copy(update={"min_clients": 5})
    with pytest.raises(RoundFailedError, match=r"4 usable updates after 1 retry\. c: "):
        federate(Clients(BAD[fault][0]), Folder.at(tmp_path), federation)
    assert not is_published(Folder.at(tmp_path) / "0")


class Killed(BaseException):
    """The driver's process ends here: nothing may catch it."""


@dataclass
class Bomb:
    """Ends the driver at the n-th thing that it does."""

    fuse: float = math.inf

    def tick(self) -> None:
        """Note one thing done."""
        self.fuse -= 1
        if self.fuse < 0:
            raise Killed


@pytest.fixture
def bomb(monkeypatch: pytest.MonkeyPatch) -> Bomb:
    """A bomb that ticks before and after each write, and before each deletion."""
    bomb, write = Bomb(), Folder.write_bytes

    def ticking(folder: Folder, name: str, data: bytes) -> None:
        bomb.tick()
        if bomb.fuse == 0:  # half of the file is written when the process dies
            folder.fs.makedirs(folder.path, exist_ok=True)
            Path(folder.full(f"{name}.part")).write_bytes(data[: len(data) // 2])
            raise Killed
        write(folder, name, data)
        bomb.tick()

    monkeypatch.setattr(Folder, "write_bytes", ticking)
    return bomb


STATEFUL = FederationConfig.model_validate(
    {"strategy": {"name": "fedadam"}, "client_fraction": 0.5, "min_clients": 2}
)


def test_a_driver_killed_anywhere_resumes_to_the_same_bits(tmp_path: Path, bomb: Bomb) -> None:
    expected, _ = federate(Clients(), Folder.at(tmp_path / "whole"), STATEFUL)
    num_deaths = 0
    for fuse in count():
        folder = Folder.at(tmp_path / str(fuse))
        bomb.fuse = fuse
        try:
            federate(Clients(), folder, STATEFUL, on_event=lambda _: bomb.tick())
        except Killed:
            num_deaths += 1
            bomb.fuse = math.inf
            state, _ = federate(Clients(), folder, STATEFUL)
        else:
            break
        assert state.round_index == ROUNDS
        assert torch.equal(state.params[W], expected.params[W])
        for slot, moments in state.slots.items():
            assert torch.equal(moments[W], expected.slots[slot][W])
    # 5 events and 2 ticks for each of 4 files in each round.
    assert num_deaths == ROUNDS * (5 + 2 * 4)


def test_a_full_disk_at_the_run_folder_stops_with_one_error_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = federate(Clients(), Folder.at(tmp_path / "whole"))
    fsync = "fedkim_ray.storage.os.fsync"
    for failing in range(4):
        calls = count()

        def full(fd: int, calls: Iterator[int] = calls, failing: int = failing) -> None:
            if next(calls) == failing:
                raise OSError(errno.ENOSPC, "No space left on device")

        folder = Folder.at(tmp_path / str(failing))
        with monkeypatch.context() as patch:
            patch.setattr(fsync, full)
            with pytest.raises(EnvironmentProblemError, match=r"No space left on device.*resume"):
                federate(Clients(), folder)
        assert not is_published(folder / "0")
        assert not [*Path(folder.path).rglob("*.part")]
        state, _ = federate(Clients(), folder)
        assert torch.equal(state.params[W], expected.params[W])
