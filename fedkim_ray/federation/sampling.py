"""Who takes part in a round: a pure function of the run's seed, the round and who is there.

    rank(k) = SHA-256(seed / round / k);  the ``number`` available clients of least rank are asked

A client's rank does not depend on the others: one that is away changes nothing but its own place,
so a resumed run samples as the uninterrupted one did.
"""

import hashlib
import math
from collections.abc import Collection

from fedkim_ray.config import FederationConfig
from fedkim_ray.types import ClientId


def sample_clients(
    available: Collection[ClientId], number: int, seed: int, round_index: int
) -> list[ClientId]:
    """Return at most ``number`` of the available clients, sorted by id; each is equally likely."""

    def rank(client_id: ClientId) -> bytes:
        return hashlib.sha256(f"{seed}/{round_index}/{client_id}/sample".encode()).digest()

    return sorted(sorted(available, key=rank)[:number])


def number_to_sample(federation: FederationConfig, num_clients: int) -> int:
    """Return how many of a run's clients a round asks: the recipe's number, share, or all."""
    if federation.clients_per_round is not None:
        return min(federation.clients_per_round, num_clients)
    if federation.client_fraction is not None:
        return math.ceil(federation.client_fraction * num_clients - 1e-9)
    return num_clients
