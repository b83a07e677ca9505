"""Long-lived Ray Train runs: one a member, started together and ended together.

Starting a run costs seconds and a round costs less, so a member's run stays up and
asks for work round after round. The driver holds a thread a run.
"""

import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig
from ray.util.placement_group import (
    PlacementGroup,
    placement_group_table,
    remove_placement_group,
)

from fedkim_ray.federation.members import MemberId
from fedkim_ray.federation.ray_members import Lives, MemberSpec
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
        self._lives = Lives(mailbox)

    def start(self, member: MemberId, spec: MemberSpec, setup: str, opener: Opener) -> None:
        """Start a member's run; Ray Train restarts its worker."""
        name = f"{self._run_id}-{member}-{self._attempt}"
        work = partial(run_member, member, self._mailbox, setup, opener)
        self._lives.follow(member, name, self._trainer(name, spec, work).fit)

    def end(self, timeout_s: float) -> None:
        """End every run: the mailbox has stopped; abort what does not end within the time."""
        if not self._lives.have_ended(timeout_s):
            with suppress(RayError):
                self._abort(ray.get(self._mailbox.controllers.remote(), timeout=KILL_TIMEOUT_S))
        with suppress(RayError):
            for placement in ray.get(self._mailbox.placements.remote(), timeout=KILL_TIMEOUT_S):
                remove_placement_group(placement)

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

    def _abort(self, controllers: Sequence[Any]) -> None:
        """End runs through their controllers, which free workers and placement groups."""
        for controller in controllers:
            controller.abort.remote()
        if not self._lives.have_ended(KILL_TIMEOUT_S):
            # One that still waits for room hears nothing, and has told nobody of its group.
            for controller in controllers:
                ray.kill(controller)
            self._lives.have_ended(KILL_TIMEOUT_S)
            for placement in _waiting():
                remove_placement_group(placement)


def _waiting() -> list[PlacementGroup]:
    """Return the placement groups of this driver's job that wait for room.

    Without its creator such a group waits on, and takes the room that comes, until the job ends.
    """
    job: str = ray.get_runtime_context().get_job_id()  # a group's id ends with its job's
    groups: dict[str, dict[str, Any]] = placement_group_table()
    waiting = [n for n, group in groups.items() if group["state"] == "PENDING" and n.endswith(job)]
    return [PlacementGroup(ray.PlacementGroupID.from_hex(name)) for name in waiting]
