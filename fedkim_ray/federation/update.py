"""What leaves a client in one round, and the check that it meets on arrival.

Nothing but parameter changes, counts and named numbers fits through ``ClientUpdate``: no example,
no text, no object. The server holds every update against its own parameters before it counts.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from fedkim_ray.errors import ClientFailedError, ParamsMismatchError, UpdateNormError
from fedkim_ray.federation.plan import Work
from fedkim_ray.types import ClientId, Params, param_group

MAX_EXAMPLES = 2**40
"""Of one client in one group, about 10^12: the sum over all clients stays within 64 bits."""
METRIC_NAME = re.compile(r"[a-z0-9_/]{1,80}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientUpdate:
    """What client n sends back from one round."""

    client_id: ClientId
    round_index: int
    delta: Params
    """theta_n - theta_global of the parameter groups that n trained, whole; float32 on CPU."""
    num_examples: Mapping[str, int]
    """Examples that each of these groups was trained on, counted once however many epochs ran."""
    metrics: Mapping[str, float]
    """Losses, scores and seconds by name; see ``federation/scoring.py``."""
    work: Work = "train"
    """Which plan of the round it answers."""


def norm(delta: Params) -> float:
    """Return the Euclidean norm of all values together; not finite if a value is not."""
    return math.hypot(*(_norm_of(value) for value in delta.values()))


def validate_update(update: ClientUpdate, params: Params, max_norm: float | None = None) -> float:
    """Hold an update against the server's parameters.

    Args:
        update: What came.
        params: theta_global, whose names and shapes are the agreed ones.
        max_norm: Largest norm that is let in; any where None.

    Returns:
        The update's norm.

    Raises:
        ParamsMismatchError: a parameter is unknown, of another shape or dtype, or its group is
            not whole.
        ClientFailedError: a value or metric is not finite, or a count is missing, negative or too
            large.
        UpdateNormError: the norm is above ``max_norm``.
    """
    who = f"The update of client {update.client_id!r} for round {update.round_index}"
    _require_names(who, update.delta, params)
    _require_shapes(who, update.delta, params)
    _require_counts(who, update)
    length = norm(update.delta)
    if not math.isfinite(length):
        _require_finite(who, update.delta)
    _require_metrics(who, update.metrics)
    if max_norm is not None and not length <= max_norm:
        raise UpdateNormError(
            f"{who} has the norm {length:.4g}.",
            f"federation.max_update_norm lets in at most {max_norm:g}.",
            "Look at that client's data and loss, or raise the limit.",
        )
    return length


def equally_weighted(update: ClientUpdate) -> ClientUpdate:
    """Return the update with one example in each group that it was trained on."""
    return replace(update, num_examples={g: min(n, 1) for g, n in update.num_examples.items()})


def without_groups(update: ClientUpdate, groups: Collection[str]) -> ClientUpdate:
    """Return the update with no example in these groups: it does not count in them."""
    counts = {g: 0 if g in groups else n for g, n in update.num_examples.items()}
    return replace(update, num_examples=counts)


def _norm_of(value: torch.Tensor) -> float:
    """Return the norm of one tensor; summed in float64 where float32 runs over."""
    length = float(torch.linalg.vector_norm(value))
    return length if math.isfinite(length) else float(torch.linalg.vector_norm(value.double()))


def _require_names(who: str, delta: Params, params: Params) -> None:
    groups = {param_group(name) for name in delta if name in params}
    agreed = {name for name in params if param_group(name) in groups}
    if delta.keys() != agreed:
        raise ParamsMismatchError(
            f"{who} lacks {some(agreed - delta.keys())} and adds {some(delta.keys() - agreed)}.",
            f"It may carry any of the {len(params)} agreed parameters, in whole groups.",
            "Start client and server from the same recipe and release.",
        )


def _require_shapes(who: str, delta: Params, params: Params) -> None:
    for name, value in delta.items():
        came = (tuple(value.shape), value.dtype)
        agreed = (tuple(params[name].shape), torch.float32)
        if came != agreed:
            raise ParamsMismatchError(
                f"{who} has {name!r} with shape {came[0]} and dtype {came[1]}.",
                f"Expected shape {agreed[0]} and dtype {agreed[1]}.",
                "Start client and server from the same recipe and release.",
            )


def _require_counts(who: str, update: ClientUpdate) -> None:
    groups = {param_group(name) for name in update.delta}
    if update.num_examples.keys() != groups:
        raise ClientFailedError(
            f"{who} counts examples of {some(update.num_examples.keys())}.",
            f"Expected one count for each of its groups, {some(groups)}.",
            "It was made by another release: use one release for client and server.",
        )
    for group, count in update.num_examples.items():
        whole = isinstance(count, int) and not isinstance(count, bool)
        if not whole or not 0 <= count <= MAX_EXAMPLES:
            raise ClientFailedError(
                f"{who} counts {count!r} examples of {group!r}.",
                f"A count is a whole number from 0 to {MAX_EXAMPLES}.",
                "It was made by another release: use one release for client and server.",
            )


def _require_finite(who: str, delta: Params) -> None:
    for name, value in delta.items():
        if not torch.isfinite(value).all():
            raise ClientFailedError(
                f"{who} has a NaN or infinite value in {name!r}.",
                "Every value is finite.",
                "The client's training diverged: lower federation.local.lr, or check its data.",
            )


def _require_metrics(who: str, metrics: Mapping[str, float]) -> None:
    for name, number in metrics.items():
        if not METRIC_NAME.fullmatch(name) or not math.isfinite(number):
            raise ClientFailedError(
                f"{who} has a metric with a name or value that cannot be used.",
                f"A metric is a finite number whose name matches {METRIC_NAME.pattern}.",
                "It was made by another release: use one release for client and server.",
            )


def some(names: Iterable[str]) -> str:
    """Return at most three names, and how many there are."""
    ordered = sorted(names)
    return f"{ordered[:3]} ({len(ordered)})" if len(ordered) > 3 else str(ordered)
