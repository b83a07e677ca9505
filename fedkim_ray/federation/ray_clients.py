"""Clients on a Ray cluster: resident, a long-lived Ray Train run each, or pooled, slots for all.

The driver holds one mailbox actor (``ray_mailbox``); the members of the run (``ray_runs``,
``ray_slots``) talk to it (``ray_exchange``). These files are all that the federation knows of Ray.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedkim_ray.config import EncodersConfig, FederationConfig
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.errors import ClientFailedError, EnvironmentProblemError
from fedkim_ray.federation.client import OpenClients
from fedkim_ray.federation.clients import Clients, Delivered, OnEvent, Reply
from fedkim_ray.federation.local_clients import LocalClients
from fedkim_ray.federation.mailbox import Letter, Member
from fedkim_ray.federation.members import MemberId
from fedkim_ray.federation.plan import ClientFailure, RoundPlan
from fedkim_ray.federation.ray_mailbox import RayMailbox
from fedkim_ray.federation.ray_members import MemberSpec, MemberStarter
from fedkim_ray.federation.ray_slots import SlotActors
from fedkim_ray.federation.resources import missing_labels, missing_resources
from fedkim_ray.federation.setup import ClientSetup, Opener, PoolSetup, make_setups
from fedkim_ray.federation.strategies import build_strategy
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.federation.wire import Packed, decode_update, encode_params
from fedkim_ray.types import ClientId, Params, Task

STOP_TIMEOUT_S = 20.0
"""Seconds that clients get to end by themselves when a run is over, before they are killed."""
ABORT_TIMEOUT_S = 2.0
"""The same when a run breaks off."""
POLL_S = 5.0
"""Seconds between two looks at overdue clients."""


def open_clients(
    *,
    client_ids: Sequence[ClientId],
    data_url: str,
    spec: DataSpec,
    encoders: EncodersConfig,
    tasks_by_client: Mapping[ClientId, tuple[Task, ...]],
    all_tasks: Sequence[Task],
    federation: FederationConfig,
    seed: int,
    run_id: str,
    scratch: str,
    on_event: OnEvent | None = None,
    quorum_suffices: bool = False,
) -> Clients:
    """Return a run's clients; they start on entering and end on leaving the ``with`` block.

    Args:
        client_ids: Who takes part.
        data_url: The data root; each client's own process opens its part of it.
        spec: Shapes and units of the data.
        encoders: The light model's encoders.
        tasks_by_client: Trained tasks that each client has data of.
        all_tasks: Trained tasks; the light model has a head for each yes/no task.
        federation: Execution, quorum, timeouts and resources; ``resident`` and ``pooled`` need a
            running Ray.
        seed: The run's seed.
        run_id: Name of the run; unique within the cluster.
        scratch: Folder for Ray Train's own files; on a cluster one that all nodes reach.
        on_event: Told when a client or slot has joined, is lost or absent at the start.
        quorum_suffices: Whether to begin without those that have not joined in time.

    Raises:
        RecipeError: the quorum is larger than the number of clients, or one has nothing to learn.
    """
    setups = make_setups(
        client_ids, data_url, spec, encoders, tasks_by_client, all_tasks, federation, run_id
    )
    if federation.execution == "local":
        return LocalClients(setups, seed)
    return RayClients(
        setups,
        federation,
        seed,
        run_id,
        scratch,
        on_event,
        quorum_suffices=quorum_suffices,
    )


class RayClients:
    """All clients of a run on a Ray cluster."""

    def __init__(
        self,
        setups: Sequence[ClientSetup],
        federation: FederationConfig,
        seed: int,
        run_id: str,
        scratch: str,
        on_event: OnEvent | None = None,
        *,
        quorum_suffices: bool = False,
        opener: Opener = OpenClients,
    ) -> None:
        self._setups = {setup.client_id: setup for setup in setups}
        self._federation = federation
        self._seed = seed
        self._run_id = run_id
        self._scratch = scratch
        self._on_event = on_event
        self._pooled = federation.execution == "pooled"
        self._quorum_suffices = quorum_suffices
        self._opener = opener
        self._mailbox: Any = None
        self._starter: MemberStarter | None = None
        self._theta_ref: Any = None

    @property
    def ids(self) -> Sequence[ClientId]:
        """All clients, sorted."""
        return sorted(self._setups)

    @property
    def available(self) -> Sequence[ClientId]:
        """Pooled clients are always there; a resident one is while its node lives."""
        if self._pooled:
            return self.ids
        joined, lost = self._ask(self._mailbox.members.remote(-1, 0.0))
        alive = _living_node_ids()
        return sorted(c for c, m in joined.items() if c not in lost and m.node in alive)

    @property
    def num_at_once(self) -> int:
        """How many train at the same time."""
        return len(self.member_specs)

    @property
    def times_each(self) -> bool:
        """A pooled client's time begins when a slot takes it; residents begin together."""
        return self._pooled

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._seed

    @property
    def member_specs(self) -> dict[MemberId, MemberSpec]:
        """What each member's workers ask of the cluster."""
        cpus = {"CPU": self._federation.cpus_per_client}
        workers = self._federation.workers_per_client
        if self._pooled:
            num_slots = min(self._federation.num_slots, len(self._setups))
            slot = MemberSpec(resources=cpus, num_workers=workers)
            return {f"slot-{k}": slot for k in range(num_slots)}
        return {
            client_id: MemberSpec(
                resources=cpus | self._federation.client_resources.get(client_id, {}),
                num_workers=workers,
                labels=self._federation.client_selector.get(client_id, {}),
            )
            for client_id in self.ids
        }

    def begin(self, plans: Mapping[ClientId, RoundPlan], theta_global: Params) -> int:
        """Put the parameters into the object store once and lay out the plans."""
        data = encode_params(theta_global)
        self._theta_ref = ray.put(data)
        self._ask(self._mailbox.begin.remote(dict(plans), [self._theta_ref]))
        return len(data) * len(plans)

    def replies(self, timeout_s: float) -> Iterator[Reply]:
        """Yield what has come; in the silence, look for pooled slots whose node is gone."""
        came = self._ask(self._mailbox.replies.remote(min(timeout_s, POLL_S)))
        if self._pooled and not came:
            self._ask(self._mailbox.only_nodes.remote(_living_node_ids()))
        for reply in came:
            yield reply if isinstance(reply, ClientFailure) else _delivered(reply)

    def end_round(self) -> None:
        """Take back open plans and free the round's parameters."""
        self._theta_ref = None
        with suppress(RayError):  # it also runs on the way out of a lost cluster
            ray.get(self._mailbox.end_round.remote())

    def members(self) -> dict[MemberId, Member]:
        """Return where each member's process runs, as it joined last."""
        joined: dict[MemberId, Member] = self._ask(self._mailbox.members.remote(-1, 0.0))[0]
        return joined

    def __enter__(self) -> Self:
        """Start every member and wait until all have joined, or a quorum where it suffices.

        It is waited for all as long as there is time; those that are absent then may join later.

        Raises:
            EnvironmentProblemError: Ray is not running, or too few members started in time.
        """
        if not ray.is_initialized():
            raise EnvironmentProblemError(
                "Ray is not running.",
                "Resident and pooled clients run in a Ray cluster.",
                "Start Ray first, or set federation.execution=local.",
            )
        try:
            self._start()
            self._wait_for_members()
        except BaseException:
            self.close(ABORT_TIMEOUT_S)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every client; after an error without waiting for those that still train."""
        self.close(STOP_TIMEOUT_S if error is None else ABORT_TIMEOUT_S)

    def close(self, timeout_s: float) -> None:
        """End every run: ask first, and abort what has not ended within ``timeout_s``."""
        if self._mailbox is None or not ray.is_initialized():  # a Ray that ended took all with it
            return
        with suppress(RayError):
            ray.get(self._mailbox.stop.remote(), timeout=timeout_s)
        if self._starter is not None:
            self._starter.end(timeout_s)
        ray.kill(self._mailbox)
        self._mailbox, self._starter = None, None

    def _ask(self, answer: Any) -> Any:
        """Return the mailbox's answer.

        Raises:
            EnvironmentProblemError: the mailbox, or Ray itself, is gone.
        """
        try:
            return ray.get(answer)
        except RayActorError as error:
            raise EnvironmentProblemError(
                f"The mailbox of run {self._run_id!r} is gone ({type(error).__name__}).",
                "It lives on the driver's node for the whole run.",
                "Look for memory pressure on that node, then resume the run.",
            ) from None

    def _start(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = RayMailbox.options(num_cpus=0, scheduling_strategy=here).remote(
            self._pooled, self._federation.join_timeout_s
        )
        self._starter = self._starter_of_members()
        everybody = PoolSetup.join(list(self._setups.values())).model_dump_json()
        for member, spec in self.member_specs.items():
            own = everybody if self._pooled else self._own_setup(member)
            self._starter.start(member, spec, own, self._opener)

    def _starter_of_members(self) -> MemberStarter:
        if self._federation.uses_ray_train:
            # Importing Ray Train takes most of a second, and slots do without it.
            from fedkim_ray.federation.ray_runs import TrainRuns

            return TrainRuns(self._run_id, self._scratch, self._mailbox)
        return SlotActors(self._run_id, self._mailbox)

    def _own_setup(self, client_id: ClientId) -> str:
        """Return a resident's setup: it learns of no other client."""
        return PoolSetup.join([self._setups[client_id]]).model_dump_json()

    def _wait_for_members(self) -> None:
        deadline = time.monotonic() + self._federation.join_timeout_s
        wanted, present, num_there = self.member_specs.keys(), set[MemberId](), 0
        while absent := sorted(wanted - present):
            left_s = deadline - time.monotonic()
            if left_s <= 0 and num_there < self._fewest:
                raise self._absent(absent)
            if left_s <= 0:
                said = self._absent(absent).came
                for member in absent:
                    self._tell(member, "client_absent", message=said)
                return
            joined, lost = self._ask(self._mailbox.members.remote(len(present), left_s))
            for member in sorted((joined.keys() | lost.keys()) - present):
                self._tell(member, "client_lost" if member in lost else "client_joined")
            present, num_there = joined.keys() | lost.keys(), len(joined.keys() - lost.keys())

    @property
    def _fewest(self) -> int:
        """Fewest members to begin with: all, or what a round can do with; one slot serves all."""
        if not self._quorum_suffices:
            return len(self.member_specs)
        strategy = build_strategy(self._federation.strategy)
        return 1 if self._pooled else max(self._federation.min_clients, strategy.min_updates)

    def _tell(self, member: MemberId, event: str, **facts: str) -> None:
        if self._on_event:
            self._on_event({"event": event, "client": member, **facts})

    def _absent(self, absent: Sequence[MemberId]) -> EnvironmentProblemError:
        demands = {
            member: {name: amount * spec.num_workers for name, amount in spec.resources.items()}
            for member, spec in self.member_specs.items()
        }
        labels = {member: spec.labels for member, spec in self.member_specs.items()}
        total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        nodes = [node["Labels"] for node in _living_nodes()]
        lacking = missing_labels(labels, nodes)
        return EnvironmentProblemError(
            f"{'Slots' if self._pooled else 'Clients'} {', '.join(absent)} did not start within "
            f"{self._federation.join_timeout_s:g} s. "
            + " ".join([missing_resources(demands, total, free), *lacking]),
            f"Each needs a worker of its own for the whole run, and {self._fewest} are the fewest "
            "to begin with.",
            "Add nodes, resources or labels, lower federation.cpus_per_client, correct "
            "federation.client_resources or client_selector, leave clients out with "
            "data.clients, or raise federation.join_timeout_s.",
        )


def _living_nodes() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _living_node_ids() -> set[str]:
    return {node["NodeID"] for node in _living_nodes()}


def _delivered(letter: Letter) -> Delivered:
    def load() -> ClientUpdate:
        try:
            data: Packed = ray.get(letter.payload[0])
        except RayError as error:
            raise ClientFailedError(
                f"The update of client {letter.client_id!r} for round {letter.round_index} is lost "
                f"({type(error).__name__}).",
                "The mailbox keeps it in the object store of the driver's node.",
                "Give that node more memory or spill space.",
            ) from None
        return decode_update(data, letter.client_id)

    return Delivered(letter.client_id, letter.round_index, letter.size_bytes, load, letter.work)
