"""What a cluster lacks to run all clients at once."""

from collections.abc import Mapping, Sequence

from fedkim_ray.types import ClientId

Amounts = Mapping[str, float]


def missing_resources(
    demands: Mapping[ClientId, Amounts], total: Amounts, available: Amounts
) -> str:
    """Say in a sentence which resources are short.

    Args:
        demands: What each client's worker asks for, by resource.
        total: What the cluster has.
        available: What of it nobody holds now.
    """
    names = sorted({name for demand in demands.values() for name in demand})
    needed = {name: sum(d.get(name, 0.0) for d in demands.values()) for name in names}
    short = [
        f"{name} {amount:g} (the cluster has {total.get(name, 0.0):g})"
        for name, amount in needed.items()
        if amount > total.get(name, 0.0) + 1e-9
    ]
    if short:
        return f"All clients together need {', '.join(short)}."
    free = ", ".join(f"{name} {available.get(name, 0.0):g}" for name in needed)
    return f"The cluster has enough in all; free now: {free}."


def missing_labels(
    selectors: Mapping[ClientId, Mapping[str, str]], nodes: Sequence[Mapping[str, str]]
) -> list[str]:
    """Say, a sentence a client, which of them no living node's labels fit.

    Args:
        selectors: Labels that each client's node must have.
        nodes: Labels of each living node.
    """
    return [
        f"No node has the labels {dict(wanted)} of client {client_id!r}."
        for client_id, wanted in sorted(selectors.items())
        if not any(wanted.items() <= node.items() for node in nodes)
    ]
