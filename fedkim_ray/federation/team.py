"""Several workers that are one client together: data parallel, one plan, one update.

    gradient = sum over workers of the gradient of their share of each batch

Worker 0 speaks with the server, and any worker where it fails. Plans and parameters are broadcast
from it, every batch is split over all, and gradients are summed, so that the update is the one that
a single worker would have sent, but for the order of floating-point sums and for dropout, which
each worker draws by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from fedkim_ray.errors import ClientFailedError
from fedkim_ray.federation.exchange import Exchange
from fedkim_ray.federation.plan import ClientFailure, RoundPlan
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.federation.wire import decode_params, encode_params
from fedkim_ray.types import Params

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Team:
    """This worker's place among a client's workers."""

    rank: int = 0
    size: int = 1

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this worker's items, every ``size``-th."""
        return items[self.rank :: self.size]

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace each gradient by its sum over workers."""
        if self.size == 1:
            return
        gradients = [w.grad for w in parameters if w.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])  # type: ignore[no-untyped-call]
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def sum_number(self, number: float) -> float:
        """Return the sum of a number over workers."""
        if self.size == 1:
            return number
        total = torch.tensor(number, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total)

    def agrees(self, number: int) -> bool:
        """Return whether all workers have the same number."""
        if self.size == 1:
            return True
        ends = torch.tensor([number, -number])
        dist.all_reduce(ends, dist.ReduceOp.MAX)
        return bool(ends[0] == -ends[1])


def team_of_process() -> Team:
    """Return this process's place; alone where torch.distributed was not started."""
    if dist.is_available() and dist.is_initialized():
        return Team(dist.get_rank(), dist.get_world_size())
    return Team()


class TeamExchange:
    """One worker's end of the exchange: worker 0 speaks with the server, all hear the same.

    Args:
        exchange: The real one.
        leads: Whether this is worker 0; the others use the real one to say that they failed.
    """

    def __init__(self, exchange: Exchange, leads: bool) -> None:
        self._exchange = exchange
        self._leader = exchange if leads else None

    def next_plan(self) -> RoundPlan | None:
        """Return the plan that worker 0 got."""
        plan = self._leader.next_plan() if self._leader else None
        told: list[Any] = [plan.model_dump_json() if plan else None]
        dist.broadcast_object_list(told, src=0)
        return RoundPlan.model_validate_json(told[0]) if told[0] else None

    def global_params(self) -> Params:
        """Return the parameters that worker 0 got."""
        packed = encode_params(self._leader.global_params()) if self._leader else None
        size = torch.tensor(0 if packed is None else len(packed))
        dist.broadcast(size, src=0)
        data = torch.from_numpy(packed if packed is not None else np.empty(int(size), np.uint8))
        dist.broadcast(data, src=0)
        return decode_params(data.numpy())

    def submit(self, update: ClientUpdate) -> None:
        """Hand in worker 0's update; the others' are the same."""
        if self._leader:
            self._leader.submit(update)

    def fail(self, failure: ClientFailure) -> None:
        """Say so, whichever worker failed, and end it: the others may wait for its gradients.

        Raises:
            ClientFailedError: always; whoever started the workers starts all of them anew.
        """
        self._exchange.fail(failure)
        raise ClientFailedError(
            f"A worker of client {failure.client_id!r} failed in round {failure.round_index}: "
            f"{failure.message}",
            "Its workers train together or not at all.",
            "They start anew; the round goes on without the client.",
        )
