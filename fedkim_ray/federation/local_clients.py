"""Clients in a plain loop: one process, one after the other, no Ray."""

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from fedkim_ray.federation.client import OpenClients
from fedkim_ray.federation.clients import Delivered, Reply
from fedkim_ray.federation.exchange import LocalExchange, serve_plans
from fedkim_ray.federation.plan import ClientFailure, RoundPlan
from fedkim_ray.federation.setup import ClientSetup, Opener
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import ClientId, Params


class LocalClients:
    """All clients of a run in this process.

    Args:
        setups: One for each client.
        seed: The run's seed.
        opener: Gives clients by their ids, from a function that gives setups.
    """

    def __init__(
        self, setups: Sequence[ClientSetup], seed: int, opener: Opener = OpenClients
    ) -> None:
        self._setups = {setup.client_id: setup for setup in setups}
        self._open = opener(self._setups.__getitem__)
        self._seed = seed
        self._waiting: dict[ClientId, RoundPlan] = {}
        self._theta_global: Params = {}

    @property
    def ids(self) -> Sequence[ClientId]:
        """All clients, sorted."""
        return sorted(self._setups)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._seed

    @property
    def available(self) -> Sequence[ClientId]:
        """All of them."""
        return self.ids

    @property
    def num_at_once(self) -> int:
        """One after the other."""
        return 1

    @property
    def times_each(self) -> bool:
        """A plain loop leaves nobody behind."""
        return False

    def begin(self, plans: Mapping[ClientId, RoundPlan], theta_global: Params) -> int:
        """Keep the plans for ``replies``; return the bytes that clients elsewhere would get."""
        self._waiting = dict(sorted(plans.items()))
        self._theta_global = theta_global
        return size_bytes(theta_global) * len(plans)

    def replies(self, timeout_s: float) -> Iterator[Reply]:
        """Train every waiting client in turn; a plain loop cannot leave one behind."""
        while self._waiting:
            client_id = next(iter(self._waiting))
            exchange = LocalExchange(self._waiting.pop(client_id), self._theta_global)
            serve_plans(exchange, self._open)
            answer = exchange.answer
            if isinstance(answer, ClientUpdate):
                yield _delivered(answer)
            elif isinstance(answer, ClientFailure):
                yield answer

    def end_round(self) -> None:
        """Forget the round."""
        self._waiting, self._theta_global = {}, {}

    def __enter__(self) -> Self:
        """Return the clients."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Forget the round."""
        self.end_round()


def size_bytes(params: Params) -> int:
    """Return the bytes of all values."""
    return sum(value.nbytes for value in params.values())


def _delivered(update: ClientUpdate) -> Delivered:
    size = size_bytes(update.delta)
    return Delivered(update.client_id, update.round_index, size, lambda: update, update.work)
