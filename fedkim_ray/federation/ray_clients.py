"""Resident clients: one long-lived Ray Train run a client, which lives through all rounds.

Starting a run costs seconds and a round costs less, so a client's ``TorchTrainer`` stays up and
asks for work round after round. The driver holds a thread a run and one mailbox actor; this file
and ``ray_worker`` are all that the federation knows of Ray.
"""

import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import ray
from ray.exceptions import RayActorError, RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedkim_ray.config import EncodersConfig, FederationConfig
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.errors import ClientFailedError, EnvironmentProblemError
from fedkim_ray.federation.clients import Clients, Delivered, OnEvent, Reply
from fedkim_ray.federation.exchange import ClientFailure, RoundPlan
from fedkim_ray.federation.local_clients import LocalClients
from fedkim_ray.federation.mailbox import Letter, Member
from fedkim_ray.federation.ray_worker import ControllerTold, RayMailbox, run_client
from fedkim_ray.federation.resources import missing_resources
from fedkim_ray.federation.setup import ClientSetup, make_setups
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.federation.wire import decode_update, encode_params
from fedkim_ray.types import ClientId, Params, Task

MAX_WORKER_RESTARTS = 2
"""Times Ray Train restarts a client's worker before the client is lost."""
STOP_TIMEOUT_S = 20.0
"""Seconds that clients get to end by themselves when a run is over, before they are killed."""
ABORT_TIMEOUT_S = 2.0
"""The same when a run breaks off."""
KILL_TIMEOUT_S = 10.0
"""Seconds that an aborted run gets to free its worker before it is killed."""


def open_clients(
    execution: Literal["resident", "local"],
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
) -> Clients:
    """Return a run's clients; they start on entering and end on leaving the ``with`` block.

    Args:
        execution: ``resident`` needs a running Ray; ``local`` is a plain loop.
        client_ids: Who takes part.
        data_url: The data root; each client's own process opens its part of it.
        spec: Shapes and units of the data.
        encoders: The light model's encoders.
        tasks_by_client: Trained tasks that each client has data of.
        all_tasks: Trained tasks; the light model has a head for each yes/no task.
        federation: Quorum, timeouts and resources.
        seed: The run's seed.
        run_id: Name of the run; unique within the cluster.
        scratch: Folder for Ray Train's own files; on a cluster one that all nodes reach.
        on_event: Told when a client has joined.

    Raises:
        RecipeError: the quorum is larger than the number of clients, or one has nothing to learn.
    """
    setups = make_setups(
        client_ids, data_url, spec, encoders, tasks_by_client, all_tasks, federation
    )
    if execution == "local":
        return LocalClients(setups, seed)
    return ResidentClients(setups, federation, seed, run_id, scratch, on_event)


class ResidentClients:
    """All clients of a run, each in a Ray Train run of its own."""

    def __init__(
        self,
        setups: Sequence[ClientSetup],
        federation: FederationConfig,
        seed: int,
        run_id: str,
        scratch: str,
        on_event: OnEvent | None = None,
    ) -> None:
        self._setups = {setup.client_id: setup for setup in setups}
        self._federation = federation
        self._seed = seed
        self._run_id = run_id
        self._scratch = scratch
        self._on_event = on_event
        self._threads: list[threading.Thread] = []
        self._mailbox: Any = None
        self._theta_ref: Any = None

    @property
    def ids(self) -> Sequence[ClientId]:
        """All clients, sorted."""
        return sorted(self._setups)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._seed

    def begin(self, plans: Mapping[ClientId, RoundPlan], theta_global: Params) -> int:
        """Put the parameters into the object store once and lay out the plans."""
        data = encode_params(theta_global)
        self._theta_ref = ray.put(np.frombuffer(data, np.uint8))
        self._ask(self._mailbox.begin.remote(dict(plans), [self._theta_ref]))
        return len(data) * len(plans)

    def replies(self, timeout_s: float) -> Iterator[Reply]:
        """Yield what has come."""
        for reply in self._ask(self._mailbox.replies.remote(timeout_s)):
            yield reply if isinstance(reply, ClientFailure) else _delivered(reply)

    def end_round(self) -> None:
        """Take back open plans and free the round's parameters."""
        self._theta_ref = None
        with suppress(RayError):  # it also runs on the way out of a lost cluster
            ray.get(self._mailbox.end_round.remote())

    def members(self) -> dict[ClientId, Member]:
        """Return where each client's process runs, as it joined last."""
        joined: dict[ClientId, Member] = self._ask(self._mailbox.members.remote(-1, 0.0))[0]
        return joined

    def __enter__(self) -> Self:
        """Start every client and wait until all have joined.

        Raises:
            EnvironmentProblemError: Ray is not running, or a client did not start in time.
        """
        if not ray.is_initialized():
            raise EnvironmentProblemError(
                "Ray is not running.",
                "Resident clients are Ray Train runs.",
                "Start Ray first, or set federation.execution=local.",
            )
        try:
            self._start()
            self._wait_for_all()
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
        if _join(self._threads, timeout_s):
            with suppress(RayError):
                self._abort(ray.get(self._mailbox.controllers.remote(), timeout=KILL_TIMEOUT_S))
        ray.kill(self._mailbox)
        self._mailbox, self._threads = None, []

    def _abort(self, controllers: Sequence[Any]) -> None:
        """End runs through their controllers, which free workers and placement groups."""
        for controller in controllers:
            controller.abort.remote()
        if _join(self._threads, KILL_TIMEOUT_S):
            # A controller that still waits for resources hears nothing: it has no workers to free.
            for controller in controllers:
                ray.kill(controller)
            _join(self._threads, KILL_TIMEOUT_S)

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
        attempt = uuid.uuid4().hex[:8]  # Ray Train would restore a run whose name it has seen
        self._mailbox = RayMailbox.options(
            name=f"mailbox-{attempt}",
            namespace=f"fedkim-{self._run_id}",
            num_cpus=0,
            scheduling_strategy=here,
        ).remote()
        for client_id, setup in sorted(self._setups.items()):
            name = f"{self._run_id}-{client_id}-{attempt}"
            thread = threading.Thread(
                target=partial(self._live, self._trainer(setup, name), client_id, name),
                name=name,
                daemon=True,
            )
            self._threads.append(thread)
            thread.start()

    def _trainer(self, setup: ClientSetup, name: str) -> TorchTrainer:
        return TorchTrainer(
            run_client,
            train_loop_config={"setup": setup.model_dump_json(), "mailbox": self._mailbox},
            scaling_config=ScalingConfig(
                num_workers=1,
                use_gpu=False,
                resources_per_worker=self._resources(setup.client_id),
            ),
            run_config=RunConfig(
                name=name,
                storage_path=self._scratch,
                failure_config=FailureConfig(max_failures=MAX_WORKER_RESTARTS),
                callbacks=[ControllerTold(self._mailbox)],  # type: ignore[list-item]
            ),
        )

    def _resources(self, client_id: ClientId) -> dict[str, float]:
        own = self._federation.client_resources.get(client_id, {})
        return {"CPU": self._federation.cpus_per_client, **own}

    def _live(self, trainer: TorchTrainer, client_id: ClientId, name: str) -> None:
        """Run one client to its end, in a thread of its own; whatever ends it is its loss."""
        cause = "it ended"
        try:
            trainer.fit()
        except BaseException as error:  # SystemExit too: Ray Train's controller may raise it
            cause = type(error).__name__
        with suppress(Exception):
            reason = f"Its Ray Train run {name!r} is over ({cause}); Ray's logs say why."
            self._mailbox.lose.remote(client_id, reason)

    def _wait_for_all(self) -> None:
        deadline = time.monotonic() + self._federation.join_timeout_s
        present: set[ClientId] = set()
        while absent := sorted(self._setups.keys() - present):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._absent(absent)
            joined, lost = self._ask(self._mailbox.members.remote(len(present), left_s))
            for client_id in sorted((joined.keys() | lost.keys()) - present):
                self._tell(client_id, "client_lost" if client_id in lost else "client_joined")
            present = joined.keys() | lost.keys()

    def _tell(self, client_id: ClientId, event: str) -> None:
        if self._on_event:
            self._on_event({"event": event, "client": client_id})

    def _absent(self, absent: Sequence[ClientId]) -> EnvironmentProblemError:
        demands = {client_id: self._resources(client_id) for client_id in self._setups}
        total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        return EnvironmentProblemError(
            f"Clients {', '.join(absent)} did not start within "
            f"{self._federation.join_timeout_s:g} s. " + missing_resources(demands, total, free),
            "Each client needs a worker of its own for the whole run.",
            "Add nodes or resources, lower federation.cpus_per_client, correct "
            "federation.client_resources, leave clients out with data.clients, or raise "
            "federation.join_timeout_s.",
        )


def _delivered(letter: Letter) -> Delivered:
    def load() -> ClientUpdate:
        try:
            data: np.ndarray = ray.get(letter.payload[0])
        except RayError as error:
            raise ClientFailedError(
                f"The update of client {letter.client_id!r} for round {letter.round_index} is lost "
                f"({type(error).__name__}).",
                "The mailbox keeps it in the object store of the driver's node.",
                "Give that node more memory or spill space.",
            ) from None
        return decode_update(data.tobytes(), letter.client_id)

    return Delivered(letter.client_id, letter.round_index, letter.size_bytes, load)


def _join(threads: Sequence[threading.Thread], timeout_s: float) -> bool:
    """Wait for threads to end; return whether any has not."""
    deadline = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return any(thread.is_alive() for thread in threads)
