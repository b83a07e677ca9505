"""Where plans wait for clients and answers wait for the server: the middle of the exchange.

Plain asyncio: one process holds it, and any transport may stand before it. Clients ask and hand
in, the server begins rounds and takes replies; neither ever calls the other.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from fedkim_ray.federation.exchange import ClientFailure, RoundPlan
from fedkim_ray.types import ClientId

Payload: TypeAlias = Any
"""Encoded parameters or an encoded update, or whatever a transport uses to refer to them."""


@dataclass(frozen=True, slots=True)
class Member:
    """A client's process, as it joined last."""

    node: str
    pid: int
    num_starts: int
    """Times the client has joined; more than 1 after a lost process."""


@dataclass(frozen=True, slots=True)
class Letter:
    """An encoded update that waits for the server."""

    client_id: ClientId
    round_index: int
    size_bytes: int
    payload: Payload
    """None where the update came too late to be kept."""


class Mailbox:
    """Plans out, answers in."""

    def __init__(self) -> None:
        self._plans: dict[ClientId, RoundPlan] = {}
        self._theta_global: Payload = None
        self._replies: list[Letter | ClientFailure] = []
        self._members: dict[ClientId, Member] = {}
        self._lost: dict[ClientId, str] = {}
        self._stopped = False
        self._changed = asyncio.Condition()

    # What clients call.

    async def join(self, client_id: ClientId, node: str, pid: int) -> None:
        """Note that a client's process is there; a restarted one joins again."""
        starts = self._members[client_id].num_starts if client_id in self._members else 0
        self._members[client_id] = Member(node, pid, starts + 1)
        await self._notify()

    async def next_plan(self, client_id: ClientId) -> tuple[RoundPlan, Payload] | None:
        """Wait for a plan that this client has not answered; None when the run is over."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._stopped or client_id in self._plans)
            return None if self._stopped else (self._plans[client_id], self._theta_global)

    async def submit(
        self, client_id: ClientId, round_index: int, payload: Payload, size_bytes: int
    ) -> None:
        """Take an encoded update over; once this returns, the client may die."""
        wanted = self._is_open(client_id, round_index)
        kept = self.keep(payload) if wanted else None
        await self._answer(Letter(client_id, round_index, size_bytes, kept))

    async def fail(self, failure: ClientFailure) -> None:
        """Take a client's failure."""
        await self._answer(failure)

    # What the server calls.

    async def begin(self, plans: Mapping[ClientId, RoundPlan], theta_global: Payload) -> None:
        """Lay out plans, in place of any that are not answered."""
        self._plans, self._theta_global = dict(plans), theta_global
        for client_id in plans.keys() & self._lost.keys():
            await self._answer(self._lost_failure(client_id))
        await self._notify()

    async def replies(self, timeout_s: float) -> list[Letter | ClientFailure]:
        """Return what has come; wait at most this long for the first."""
        await self._wait_until(lambda: bool(self._replies) or self._stopped, timeout_s)
        replies, self._replies = self._replies, []
        return replies

    async def end_round(self) -> None:
        """Take back plans that are not answered; let go of parameters and unread updates."""
        self._plans, self._theta_global = {}, None
        self._replies = [
            replace(reply, payload=None) if isinstance(reply, Letter) else reply
            for reply in self._replies
        ]

    async def lose(self, client_id: ClientId, reason: str) -> None:
        """Note that a client will not come back."""
        self._lost[client_id] = reason
        if client_id in self._plans:
            await self._answer(self._lost_failure(client_id))
        await self._notify()

    async def members(
        self, num_known: int, timeout_s: float
    ) -> tuple[dict[ClientId, Member], dict[ClientId, str]]:
        """Return who joined and who is lost, once they are more than ``num_known``."""
        await self._wait_until(
            lambda: len(self._members.keys() | self._lost.keys()) > num_known, timeout_s
        )
        return dict(self._members), dict(self._lost)

    async def stop(self) -> None:
        """Let every client's next plan be None."""
        self._stopped = True
        await self._notify()

    def keep(self, payload: Payload) -> Payload:
        """Return ``payload`` in a form that outlives the client that sent it."""
        return payload

    def _is_open(self, client_id: ClientId, round_index: int) -> bool:
        plan = self._plans.get(client_id)
        return plan is not None and plan.round_index == round_index

    def _lost_failure(self, client_id: ClientId) -> ClientFailure:
        return ClientFailure(
            client_id=client_id,
            round_index=self._plans[client_id].round_index,
            code="ClientLost",
            message=self._lost[client_id],
        )

    async def _answer(self, reply: Letter | ClientFailure) -> None:
        if self._is_open(reply.client_id, reply.round_index):
            del self._plans[reply.client_id]
        self._replies.append(reply)
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait_until(self, true: Callable[[], bool], timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with self._changed, asyncio.timeout(timeout_s):
                await self._changed.wait_for(true)
