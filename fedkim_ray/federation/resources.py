"""What a cluster lacks to run all clients, and the injection, at once."""

from collections.abc import Mapping, Sequence

from fedkim_ray.types import ClientId

Amounts = Mapping[str, float]


def missing_resources(
    demands: Mapping[ClientId, Amounts], total: Amounts, available: Amounts
) -> str:
    """Say in a sentence which resources are short.

    Args:
        demands: What each client's worker asks for, by resource.
        total: What the cluster has, or may grow to.
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
    selectors: Mapping[str, Mapping[str, str]], nodes: Sequence[Mapping[str, str]]
) -> list[str]:
    """Say, a sentence each, who asks for labels that no living node has.

    Args:
        selectors: What each asks of its node's labels.
        nodes: Labels of each living node.
    """
    return [
        f"No node has the labels {dict(wanted)} that {who!r} asks for."
        for who, wanted in sorted(selectors.items())
        if not any(fits(wanted, labels) for labels in nodes)
    ]


def fits(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Return whether a node's labels meet a selector, as Ray reads it.

    A node without a label meets what excludes values of it.
    """
    return all(_meets(condition, labels.get(name)) for name, condition in selector.items())


def _meets(condition: str, value: str | None) -> bool:
    """Hold a label's value against ``x``, ``!x``, ``in(x, y)`` or ``!in(x, y)``."""
    values = condition.removeprefix("!").removeprefix("in(").removesuffix(")").split(",")
    return (value in [each.strip() for each in values]) != condition.startswith("!")
