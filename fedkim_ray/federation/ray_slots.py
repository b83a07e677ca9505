"""Slots of a pool: an actor each, which is whichever client is next.

A slot is one process, and Ray itself starts an actor again that has died, wherever there is room:
nothing of what a Ray Train run would add is used, and its helpers take longer to start than a slot.
"""

import logging
import traceback
from contextlib import suppress
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from fedkim_ray.federation.members import MemberId
from fedkim_ray.federation.ray_exchange import RayExchange, live
from fedkim_ray.federation.ray_members import Lives, MemberSpec
from fedkim_ray.federation.setup import Opener

KILL_TIMEOUT_S = 20.0
"""Seconds that a killed slot gets to be gone."""
log = logging.getLogger(__name__)


class Slot:
    """One slot."""

    def run(self, member: MemberId, mailbox: Any, setup: str, opener: Opener) -> None:
        """Serve plans until the run is over; after an error, or in a new process, again."""
        try:
            live(RayExchange(member, mailbox), setup, opener)
        except Exception as error:
            place = "".join(traceback.format_tb(error.__traceback__))  # a text may quote data
            log.error("%s begins anew after a %s.\n%s", member, type(error).__name__, place)
            raise


RaySlot: Any = ray.remote(
    max_restarts=-1,  # the mailbox ends a slot that starts in vain (``MAX_VAIN_STARTS``)
    max_task_retries=-1,
    scheduling_strategy="SPREAD",
)(Slot)


class SlotActors:
    """The slots of a federation.

    Args:
        run_id: Name of the federation; unique within the cluster.
        mailbox: Actor that the slots talk to.
    """

    def __init__(self, run_id: str, mailbox: Any) -> None:
        self._run_id = run_id
        self._mailbox = mailbox
        self._lives = Lives(mailbox)
        self._actors: list[Any] = []

    def start(self, member: MemberId, spec: MemberSpec, setup: str, opener: Opener) -> None:
        """Start a slot."""
        name, resources = f"{self._run_id}-{member}", dict(spec.resources)
        actor = RaySlot.options(num_cpus=resources.pop("CPU"), resources=resources).remote()
        self._actors.append(actor)
        run = actor.run.options(name=name, retry_exceptions=True)
        life = run.remote(member, self._mailbox, setup, opener)
        self._lives.follow(member, name, partial(_to_the_end, actor, life))

    def end(self, timeout_s: float) -> None:
        """End all slots: the mailbox has stopped; kill what does not end within the time."""
        if not self._lives.have_ended(timeout_s):
            for actor in self._actors:
                _kill(actor)
            self._lives.have_ended(KILL_TIMEOUT_S)


def _to_the_end(actor: Any, life: Any) -> None:
    """Wait for a slot's end, and free what it stands in: an actor lives on until it is killed."""
    try:
        ray.get(life)
    finally:
        _kill(actor)


def _kill(actor: Any) -> None:
    with suppress(RayError):
        ray.kill(actor)
