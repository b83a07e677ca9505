"""What a strategy is, and the one mean that linear strategies share."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from fedkim_ray.errors import ParamsMismatchError, StorageError
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import Params, param_group

PARAMS, SLOTS, ROUND_INDEX = "params", "slots", "round_index"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """All that a strategy carries from round to round; a checkpoint is exactly this."""

    params: Params
    """theta_global: encoders and heads, float32 on CPU."""
    slots: Mapping[str, Params] = field(default_factory=dict)
    """The server optimizer's moments by name; empty for strategies that have none."""
    round_index: int = 0
    """Rounds applied so far."""


class Strategy(Protocol):
    """Turns one server state and one round of client updates into the next state."""

    @property
    def proximal_mu(self) -> float:
        """Weight of the proximal term in every client's loss; 0 where there is none."""
        ...

    @property
    def needs_all(self) -> bool:
        """Whether updates are compared with one another rather than folded one at a time."""
        ...

    @property
    def min_updates(self) -> int:
        """Fewest updates of a parameter group that the strategy's guarantee holds for."""
        ...

    def init(self, params: Params) -> ServerState:
        """Return the state before round 0."""
        ...

    def apply(self, state: ServerState, updates: Iterable[ClientUpdate]) -> ServerState:
        """Return the state after a round; a group that nobody trained keeps all of its state.

        ``updates`` come in client-id order and may be a generator: where ``needs_all`` is false,
        one is held at a time; else the tensors of all are read parameter by parameter.
        """
        ...

    def rebase(self, state: ServerState, params: Params) -> ServerState:
        """Return the state with injected parameters as its new base; moments stay."""
        ...


def weighted_mean_delta(updates: Iterable[ClientUpdate]) -> dict[str, Tensor]:
    """Average client changes by example count within each parameter group.

    For each group g:  sum_k n_{k,g} * delta_{k,g} / sum_k n_{k,g}, over the clients k that trained
    g. A client without a modality neither adds to its encoder nor dilutes it. The sum runs, so
    that memory stays at one model and one update however many clients reply.

    Args:
        updates: Validated updates, folded in the order they come.

    Returns:
        The mean change of every parameter whose group saw an example; no other name.

    Source: McMahan et al. 2017, algorithm 1, server step, https://arxiv.org/abs/1602.05629
    """
    total: dict[str, Tensor] = {}
    num_examples: Counter[str] = Counter()
    for update in updates:
        for name, delta in update.delta.items():
            n = update.num_examples[param_group(name)]
            if name in total:
                total[name].add_(delta, alpha=n)
            elif n:
                total[name] = delta * n
        num_examples.update(update.num_examples)
    return {name: summed.div_(num_examples[param_group(name)]) for name, summed in total.items()}


def zeros_like(params: Params) -> dict[str, Tensor]:
    """Return zeros of the same names and shapes."""
    return {name: torch.zeros_like(value) for name, value in params.items()}


def rebased(state: ServerState, params: Params) -> ServerState:
    """Return ``state`` with other parameters of the same names and shapes.

    Raises:
        ParamsMismatchError: names or shapes differ.
    """
    own = {name: value.shape for name, value in state.params.items()}
    came = {name: value.shape for name, value in params.items()}
    if own != came:
        wrong = sorted(n for n in own.keys() | came.keys() if own.get(n) != came.get(n))
        raise ParamsMismatchError(
            f"The new base differs in name or shape at {wrong[:3]} ({len(wrong)} in all).",
            f"The server holds {len(own)} parameters.",
            "Encoders that come back from injection are those that went in.",
        )
    return replace(state, params=dict(params))


def state_tensors(state: ServerState) -> dict[str, Tensor]:
    """Return a state as named tensors, as safetensors can hold it."""
    flat = {f"{PARAMS}/{name}": value for name, value in state.params.items()}
    for slot, values in state.slots.items():
        flat |= {f"{SLOTS}/{slot}/{name}": value for name, value in values.items()}
    return {**flat, ROUND_INDEX: torch.tensor(state.round_index)}


def state_from_tensors(tensors: Params) -> ServerState:
    """Return the state that ``state_tensors`` made the tensors of.

    Raises:
        StorageError: a name belongs to no part of a state, or the round is missing.
    """
    params: dict[str, Tensor] = {}
    slots: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        match name.split("/", 2):
            case [part, rest] if part == PARAMS:
                params[rest] = value
            case [part, slot, rest] if part == SLOTS:
                slots.setdefault(slot, {})[rest] = value
            case [part] if part == ROUND_INDEX:
                continue
            case _:
                raise _no_state(f"has a tensor {name!r}")
    if ROUND_INDEX not in tensors:
        raise _no_state(f"has no {ROUND_INDEX!r}")
    return ServerState(params=params, slots=slots, round_index=int(tensors[ROUND_INDEX]))


def _no_state(came: str) -> StorageError:
    return StorageError(
        f"A saved server state {came}.",
        f"It holds {PARAMS}/..., {SLOTS}/<slot>/... and {ROUND_INDEX}.",
        "It was written by another release: go on with that one, or start a new run.",
    )
