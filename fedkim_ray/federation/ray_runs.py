"""Long-lived Ray Train runs: one a member, started together and ended together.

Starting a run costs seconds and a round costs less, so a member's run stays up and
asks for work round after round. The driver holds a thread a run.
"""

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig
from ray.util import remove_placement_group

from fedkim_ray.federation.members import MemberId
from fedkim_ray.federation.ray_told import MailboxTold
from fedkim_ray.federation.ray_worker import run_member
from fedkim_ray.federation.setup import Opener
from fedkim_ray.ray_lean import MemberTrainer

WORKER_RESTARTS = -1
"""Times Ray Train restarts a member's worker: any number, for it never forgets one and a run may be
long. The mailbox ends a member whose processes start in vain (``MAX_VAIN_STARTS``); one whose
processes do not even join answers no plan and fails its rounds."""
TEAM_TIMEOUT_S = 7 * 24 * 3600
"""Seconds that a client's other workers wait for the one that asks for plans, longer than any
injection; what hangs is ended by the client's own timeout."""
KILL_TIMEOUT_S = 20.0
"""Seconds that an aborted run gets to free its worker before it is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSpec:
    """What one member's workers ask of the cluster."""

    resources: Mapping[str, float]
    """Of each worker."""
    num_workers: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that its node must have."""


class TrainRuns:
    """The Ray Train runs of a federation.

    Args:
        run_id: Name of the federation; unique within the cluster.
        scratch: Folder for Ray Train's own files.
        mailbox: Actor that the members talk to.
    """

    def __init__(self, run_id: str, scratch: str, mailbox: Any) -> None:
        self._run_id = run_id
        self._scratch = scratch
        self._mailbox = mailbox
        self._attempt = uuid.uuid4().hex[:8]  # Ray Train restores a run whose name it has seen
        self._threads: list[threading.Thread] = []

    def start(self, member: MemberId, spec: MemberSpec, setup: str, opener: Opener) -> None:
        """Start a member's run in a thread of its own."""
        name = f"{self._run_id}-{member}-{self._attempt}"
        work = partial(run_member, member, self._mailbox, setup, opener)
        trainer = self._trainer(name, spec, work)
        thread = threading.Thread(
            target=partial(self._live, trainer, member, name), name=name, daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def end(self, timeout_s: float) -> None:
        """End every run: the mailbox has stopped; abort what does not end within the time."""
        still_run = _join(self._threads, timeout_s)
        if still_run:
            with suppress(RayError):
                self._abort(ray.get(self._mailbox.controllers.remote(), timeout=KILL_TIMEOUT_S))
        with suppress(RayError):
            for placement in ray.get(self._mailbox.placements.remote(), timeout=KILL_TIMEOUT_S):
                remove_placement_group(placement)
        self._threads = []

    def _trainer(self, name: str, spec: MemberSpec, work: Callable[[], None]) -> MemberTrainer:
        team = TorchConfig(backend="gloo", timeout_s=TEAM_TIMEOUT_S)
        return MemberTrainer(
            work,
            backend_config=team if spec.num_workers > 1 else None,
            scaling_config=ScalingConfig(
                num_workers=spec.num_workers,
                use_gpu=False,
                resources_per_worker=dict(spec.resources),
                label_selector=dict(spec.labels) or None,  # type: ignore[call-arg]
            ),
            run_config=RunConfig(
                name=name,
                storage_path=self._scratch,
                failure_config=FailureConfig(max_failures=WORKER_RESTARTS),
                callbacks=[MailboxTold(self._mailbox)],  # type: ignore[list-item]
            ),
        )

    def _live(self, trainer: MemberTrainer, member: MemberId, name: str) -> None:
        """Run one member to its end, in a thread of its own; whatever ends it is its loss."""
        cause = "it ended"
        try:
            trainer.fit()
        except BaseException as error:  # SystemExit too: Ray Train's controller may raise it
            cause = type(error).__name__
        with suppress(Exception):
            reason = f"Its Ray Train run {name!r} is over ({cause}); Ray's logs say why."
            self._mailbox.lose.remote(member, reason)

    def _abort(self, controllers: Sequence[Any]) -> None:
        """End runs through their controllers, which free workers and placement groups."""
        for controller in controllers:
            controller.abort.remote()
        if _join(self._threads, KILL_TIMEOUT_S):
            # A controller that still waits for resources hears nothing: it has no workers to free.
            for controller in controllers:
                ray.kill(controller)
            _join(self._threads, KILL_TIMEOUT_S)


def _join(threads: Sequence[threading.Thread], timeout_s: float) -> bool:
    """Wait for threads to end; return whether any has not."""
    deadline = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return any(thread.is_alive() for thread in threads)
