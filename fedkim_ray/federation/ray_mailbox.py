"""The mailbox as a Ray actor on the driver's node. It imports no torch, and so is there early."""

from typing import Any

import ray

from fedkim_ray.federation.mailbox import Mailbox, Payload


class OwningMailbox(Mailbox):
    """A mailbox that keeps updates in its own ownership, and the runs that end with it."""

    def __init__(self, pooled: bool, idle_timeout_s: float) -> None:
        super().__init__(pooled, idle_timeout_s)
        self._controllers: list[Any] = []
        self._placements: list[Any] = []

    def keep(self, payload: Payload) -> Payload:
        """Put the update into this actor's ownership: a worker's objects die with the worker.

        The reference travels in a list, so that Ray hands on the reference and not the data.
        """
        return [ray.put(payload)]

    async def add_controller(self, controller: Any) -> None:
        """Note the controller of a member's Ray Train run."""
        self._controllers.append(controller)

    async def controllers(self) -> list[Any]:
        """Return the controllers of all runs."""
        return self._controllers

    async def add_placement(self, placement: Any) -> None:
        """Note the placement group that a member's workers stand in."""
        self._placements.append(placement)

    async def placements(self) -> list[Any]:
        """Return all placement groups that members ever had."""
        return self._placements


RayMailbox: Any = ray.remote(OwningMailbox)
