"""The server's end of the exchange: all clients of a run, however they are executed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from fedkim_ray.federation.plan import ClientFailure, RoundPlan, Work
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import ClientId, Params

Event: TypeAlias = Mapping[str, Any]
"""JSON-serialisable news for logs and progress bars; ``event`` names its kind."""
OnEvent: TypeAlias = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Delivered:
    """An update that came; it is loaded when it is taken, so that few are held at a time."""

    client_id: ClientId
    round_index: int
    size_bytes: int
    """Bytes that left the client."""
    load: Callable[[], ClientUpdate]
    """Return the update; called once. Raises ClientFailedError where the bytes are none."""
    work: Work = "train"
    """What it answers."""


Reply: TypeAlias = Delivered | ClientFailure


class Clients(Protocol):
    """Clients that live through all rounds; closing ends everything that opening started."""

    @property
    def ids(self) -> Sequence[ClientId]:
        """All clients, sorted."""
        ...

    @property
    def available(self) -> Sequence[ClientId]:
        """Those that can take a plan now, sorted."""
        ...

    @property
    def num_at_once(self) -> int:
        """How many train at the same time."""
        ...

    @property
    def times_each(self) -> bool:
        """Whether a client that overruns its plan's time is answered for, one by one."""
        ...

    @property
    def seed(self) -> int:
        """The run's seed, which every plan carries."""
        ...

    def begin(self, plans: Mapping[ClientId, RoundPlan], theta_global: Params) -> int:
        """Hand out plans, in place of any that are not answered; return the bytes that go out."""
        ...

    def replies(self, timeout_s: float) -> Iterator[Reply]:
        """Yield what has come; wait at most this long for the first."""
        ...

    def end_round(self) -> None:
        """Take back plans that are not answered and let go of the round's parameters."""
        ...

    def __enter__(self) -> Self:
        """Return the clients, started."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every client."""
        ...
