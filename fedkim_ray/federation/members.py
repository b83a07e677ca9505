"""The two kinds of members: whose plan each may take, and when nobody will answer for a client.

A *resident* is a client, which answers its own plans; a *slot* takes whichever client's plan is
next. The mailbox asks its kind, and acts on what it says.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol, TypeAlias

from fedkim_ray.federation.plan import RoundPlan
from fedkim_ray.types import ClientId

MemberId: TypeAlias = str
GRACE_S = 10.0
"""Seconds beyond its plan's own time after which a slot is taken for lost."""


class Members(Protocol):
    """What a mailbox must know of its members' kind."""

    def next_for(self, member: MemberId, waiting: Collection[ClientId]) -> ClientId | None:
        """Return whose plan, of those that wait in this order, a member takes."""
        ...

    def anyone_may_take(self, waiting: Collection[ClientId]) -> bool:
        """Return whether a plan waits for whichever member comes."""
        ...

    def limit_s(self, plan: RoundPlan) -> float:
        """Return the seconds after which whoever took a plan is taken for lost."""
        ...

    def why_lost(
        self, client_id: ClientId, joined: Iterable[MemberId], lost: Mapping[MemberId, str]
    ) -> str | None:
        """Return why nobody will answer for a client; None where somebody may."""
        ...


class Residents:
    """Each client is a member. The server times all of a round together."""

    def next_for(self, member: MemberId, waiting: Collection[ClientId]) -> ClientId | None:
        """Return the member itself, where its plan waits."""
        return member if member in waiting else None

    def anyone_may_take(self, waiting: Collection[ClientId]) -> bool:
        """Return False: a plan waits for its own client alone."""
        return False

    def limit_s(self, plan: RoundPlan) -> float:
        """Return infinity: the server gives up on it, whose plan it is."""
        return float("inf")

    def why_lost(
        self, client_id: ClientId, joined: Iterable[MemberId], lost: Mapping[MemberId, str]
    ) -> str | None:
        """Return why the client itself is lost."""
        return lost.get(client_id)


class Slots:
    """Few members serve all clients. Each client's time begins when a slot takes its plan."""

    def next_for(self, member: MemberId, waiting: Collection[ClientId]) -> ClientId | None:
        """Return the first that waits."""
        return next(iter(waiting), None)

    def anyone_may_take(self, waiting: Collection[ClientId]) -> bool:
        """Return whether any waits."""
        return bool(waiting)

    def limit_s(self, plan: RoundPlan) -> float:
        """Return the plan's own time and some grace; infinity where it has none."""
        return float("inf") if plan.timeout_s is None else plan.timeout_s + GRACE_S

    def why_lost(
        self, client_id: ClientId, joined: Iterable[MemberId], lost: Mapping[MemberId, str]
    ) -> str | None:
        """Return why the first slot was lost, once every one is."""
        if not lost or not lost.keys() >= set(joined):
            return None
        return "No slot is left. " + next(iter(lost.values()))
