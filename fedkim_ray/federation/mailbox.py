"""Where plans wait for clients and answers wait for the server: the middle of the exchange.

Plain asyncio: one process holds it, and any transport may stand before it. Clients ask and hand
in, the server begins rounds and takes replies; neither ever calls the other. Who asks is a
*member* (``members.py``): a client, or a slot that works for whichever client is next.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from fedkim_ray.federation.members import MemberId, Members, Residents, Slots
from fedkim_ray.federation.plan import ClientFailure, RoundPlan, Work
from fedkim_ray.types import ClientId

Payload: TypeAlias = Any
"""Encoded parameters or an encoded update, or whatever a transport uses to refer to them."""
MAX_HANDOUTS = 3
"""Times a plan is given to a process that dies with it, before its client has failed the round."""
MAX_VAIN_STARTS = 20
"""Times in a row that a member's process may start and die without a word, before it is lost."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member's process, as it joined last."""

    node: str
    pid: int
    num_starts: int
    """Times the member has joined; more than 1 after a lost process."""


@dataclass(frozen=True, slots=True)
class Letter:
    """An encoded update that waits for the server."""

    client_id: ClientId
    round_index: int
    size_bytes: int
    payload: Payload
    """None where the update came too late to be kept."""
    work: Work = "train"


@dataclass(frozen=True, slots=True)
class Taken:
    """A plan in a member's hands."""

    client_id: ClientId
    since_s: float
    until_s: float
    """When its member is taken for lost; infinite where nobody times it."""


class Mailbox:
    """Plans out, answers in.

    Args:
        pooled: Whether members are slots.
        idle_timeout_s: Seconds that plans may lie before slots none of which is busy or stirs.
        clock: Seconds from any origin.
    """

    def __init__(
        self,
        pooled: bool = False,
        idle_timeout_s: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kind: Members = Slots() if pooled else Residents()
        self._idle_timeout_s = idle_timeout_s
        self._clock = clock
        self._stirred_s = clock()
        self._plans: dict[ClientId, RoundPlan] = {}
        self._queue: OrderedDict[ClientId, None] = OrderedDict()  # whose open plans nobody has
        self._taken: dict[MemberId, Taken] = {}
        self._busy: dict[MemberId, Taken] = {}  # with work of any round: it has not asked since
        self._vain_starts: Counter[MemberId] = Counter()
        self._handouts: Counter[ClientId] = Counter()
        self._theta_global: Payload = None
        self._replies: list[Letter | ClientFailure] = []
        self._members: dict[MemberId, Member] = {}
        self._lost: dict[MemberId, str] = {}
        self._stopped = False
        self._changed = asyncio.Condition()

    # What members call.

    async def join(self, member: MemberId, node: str, pid: int) -> None:
        """Note that a member's process is there; a restarted one joins again, but not for ever."""
        starts = self._members[member].num_starts if member in self._members else 0
        self._members[member] = Member(node, pid, starts + 1)
        self._busy.pop(member, None)
        self._vain_starts[member] += 1
        if self._vain_starts[member] > MAX_VAIN_STARTS:
            said = f"Its process started {MAX_VAIN_STARTS} times in a row and answered nothing."
            await self.lose(member, said)
        await self._notify()

    async def next_plan(self, member: MemberId) -> tuple[RoundPlan, Payload] | None:
        """Wait for a plan; None when the run is over, or the member is lost.

        A member that asks again before it has answered gets the same plan again; the wait of a
        process that another has replaced ends in vain, and takes no plan.
        """
        process = self._members.get(member)
        self._busy.pop(member, None)
        while True:
            async with self._changed:
                await self._changed.wait_for(
                    lambda: self._is_over(member, process) or self._next_for(member) is not None
                )
                if self._is_over(member, process):
                    return None
                plan = self._take(member)
            if self._handouts[plan.client_id] <= MAX_HANDOUTS:
                self._busy[member] = self._taken[member]
                return plan, self._theta_global
            died = f"Its process died {MAX_HANDOUTS} times in this round."
            self._answer(ClientFailure.of(plan, "ClientLost", died))
            await self._notify()

    async def submit(
        self,
        client_id: ClientId,
        round_index: int,
        work: Work,
        payload: Payload,
        size_bytes: int,
    ) -> bool:
        """Take an encoded update over; once this returns, the client may die.

        Returns whether plans of the same round wait for whichever member comes.
        """
        self._hear_of(client_id)
        wanted = self._is_open(client_id, round_index, work)
        kept = self.keep(payload) if wanted else None
        self._answer(Letter(client_id, round_index, size_bytes, kept, work))
        await self._notify()
        return self._kind.anyone_may_take(self._queue)

    async def fail(self, failure: ClientFailure) -> bool:
        """Take a client's failure; returns as ``submit`` does."""
        self._hear_of(failure.client_id)
        self._answer(failure)
        await self._notify()
        return self._kind.anyone_may_take(self._queue)

    # What the server calls.

    async def begin(self, plans: Mapping[ClientId, RoundPlan], theta_global: Payload) -> None:
        """Lay out plans, in place of any that are not answered."""
        self._plans, self._theta_global = dict(plans), theta_global
        self._queue = OrderedDict.fromkeys(plans)
        self._taken.clear()
        self._handouts.clear()
        self._stirred_s = self._clock()
        self._drop_unkept()
        self._fail_lost()
        await self._notify()

    async def replies(self, timeout_s: float) -> list[Letter | ClientFailure]:
        """Return what has come; wait at most this long for the first."""
        self._expire()
        await self._wait_until(lambda: bool(self._replies) or self._stopped, timeout_s)
        replies, self._replies = self._replies, []
        return replies

    async def end_round(self) -> None:
        """Take back plans that are not answered; let go of parameters and unread updates."""
        self._plans, self._theta_global = {}, None
        self._queue.clear()
        self._replies = [
            replace(reply, payload=None) if isinstance(reply, Letter) else reply
            for reply in self._replies
        ]

    async def lose(self, member: MemberId, reason: str) -> None:
        """Note that a member will not come back."""
        self._lost.setdefault(member, reason)  # the first reason is the cause
        self._give_back(member)
        self._fail_lost()
        await self._notify()

    async def only_nodes(self, alive: Collection[str]) -> None:
        """Let other slots take what the slots on all other nodes have in hand."""
        held = self._taken.keys() | self._busy.keys()
        for member in [m for m in held if self._members[m].node not in alive]:
            self._give_back(member)
        await self._notify()

    async def members(
        self, num_known: int, timeout_s: float
    ) -> tuple[dict[MemberId, Member], dict[MemberId, str]]:
        """Return who joined and who is lost, once they are more than ``num_known``."""
        await self._wait_until(
            lambda: len(self._members.keys() | self._lost.keys()) > num_known, timeout_s
        )
        return dict(self._members), dict(self._lost)

    async def stop(self) -> None:
        """Let every member's next plan be None."""
        self._stopped = True
        await self._notify()

    def keep(self, payload: Payload) -> Payload:
        """Return ``payload`` in a form that outlives the member that sent it."""
        return payload

    def _is_over(self, member: MemberId, process: Member | None) -> bool:
        """Return whether a process waits in vain: no more is asked of it, or another took over."""
        over = self._stopped or member in self._lost
        return over or self._members.get(member) != process

    def _next_for(self, member: MemberId) -> ClientId | None:
        """Return whose plan a member gets: the one in its hands until it is answered."""
        taken = self._taken.get(member)
        if taken and taken.client_id in self._plans:
            return taken.client_id
        return self._kind.next_for(member, self._queue)

    def _take(self, member: MemberId) -> RoundPlan:
        """Put the next plan into a member's hands, or once more the one that it has."""
        client_id = self._next_for(member)
        assert client_id is not None  # next_plan waits for one
        plan = self._plans[client_id]
        self._queue.pop(client_id, None)
        self._stirred_s = now = self._clock()
        self._taken[member] = Taken(client_id, now, now + self._kind.limit_s(plan))
        self._handouts[client_id] += 1
        return plan

    def _give_back(self, member: MemberId) -> None:
        """Put a member's plan back to the queue's head."""
        self._busy.pop(member, None)
        taken = self._taken.pop(member, None)
        if taken and taken.client_id in self._plans:
            self._queue[taken.client_id] = None
            self._queue.move_to_end(taken.client_id, last=False)

    def _drop_unkept(self) -> None:
        """Forget answers that came too late to be kept and are asked for once more."""
        self._replies = [
            reply
            for reply in self._replies
            if isinstance(reply, ClientFailure)
            or reply.payload is not None
            or not self._is_open(reply.client_id, reply.round_index, reply.work)
        ]

    def _hear_of(self, client_id: ClientId) -> None:
        """Note that the process which has a client's plan lives up to what it started for."""
        for member, taken in self._busy.items():
            if taken.client_id == client_id:
                self._vain_starts[member] = 0

    def _is_open(self, client_id: ClientId, round_index: int, work: Work) -> bool:
        plan = self._plans.get(client_id)
        return plan is not None and (plan.round_index, plan.work) == (round_index, work)

    def _closes(self, reply: Letter | ClientFailure) -> bool:
        """Return whether a reply answers an open plan.

        An update is the same in each attempt; a failure ends its own attempt alone.
        """
        if not self._is_open(reply.client_id, reply.round_index, reply.work):
            return False
        return isinstance(reply, Letter) or reply.attempt == self._plans[reply.client_id].attempt

    def _fail_lost(self) -> None:
        """Answer for clients whom nobody will answer for."""
        for client_id, plan in [*self._plans.items()]:
            reason = self._kind.why_lost(client_id, self._members, self._lost)
            if reason is not None:
                self._answer(ClientFailure.of(plan, "ClientLost", reason))

    def _expire(self) -> None:
        """Answer for clients whose members take too long, and for those that no slot takes."""
        now = self._clock()
        for taken in [*self._taken.values()]:
            plan = self._plans.get(taken.client_id)
            if plan and now > taken.until_s:
                said = f"It had not answered after {now - taken.since_s:.0f} s."
                self._answer(ClientFailure.of(plan, "ClientTimeout", said))
        if any(now <= taken.until_s for taken in self._busy.values()):
            self._stirred_s = now  # idle are slots from when the last one may have become free
        idle_s = now - self._stirred_s
        if self._kind.anyone_may_take(self._queue) and idle_s > self._idle_timeout_s:
            said = f"No slot took it within {idle_s:.0f} s."
            for plan in [self._plans[c] for c in self._queue]:
                self._answer(ClientFailure.of(plan, "ClientTimeout", said))

    def _answer(self, reply: Letter | ClientFailure) -> None:
        if self._closes(reply):
            del self._plans[reply.client_id]
            self._queue.pop(reply.client_id, None)
        self._stirred_s = self._clock()
        self._replies.append(reply)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait_until(self, true: Callable[[], bool], timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with self._changed, asyncio.timeout(timeout_s):
                await self._changed.wait_for(true)
