"""What runs in the worker of a member's Ray Train run."""

import time
from typing import Any

import ray.train

from fedkim_ray.federation.members import MemberId
from fedkim_ray.federation.ray_exchange import RayExchange, live
from fedkim_ray.federation.setup import Opener
from fedkim_ray.federation.update import ClientUpdate

REPORT_EVERY_S = 10.0
"""Seconds between two reports to Ray Train, whose controller takes one every two: a faster client
would wait for it. Every update reaches the driver, its log and its metrics without them."""


def run_member(member: MemberId, mailbox: Any, setup: str, opener: Opener) -> None:
    """Be a member; the train function of its run. Ray Train calls it again after an error."""
    live(ReportingExchange(member, mailbox), setup, opener)


class ReportingExchange(RayExchange):
    """One that tells Ray Train the client's metrics, for its own dashboard and callbacks."""

    def __init__(self, member: MemberId, mailbox: Any) -> None:
        super().__init__(member, mailbox)
        self._alone = ray.train.get_context().get_world_size() == 1  # others would have to report
        self._reported_s = -REPORT_EVERY_S

    def submit(self, update: ClientUpdate) -> None:
        """Hand in the update; returns once the mailbox owns a copy."""
        super().submit(update)
        now = time.monotonic()
        if self._alone and now - self._reported_s >= REPORT_EVERY_S:
            self._reported_s = now
            ray.train.report(dict(update.metrics))
