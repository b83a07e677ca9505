"""What strategies share unless their paper says otherwise."""

from dataclasses import replace

from fedkim_ray.federation.aggregation import ServerState, rebased
from fedkim_ray.types import Params


class Base:
    """Clients train on their loss alone; updates fold one at a time; no moments."""

    @property
    def proximal_mu(self) -> float:
        """Clients train on their loss alone."""
        return 0.0

    @property
    def needs_all(self) -> bool:
        """Updates may come one at a time."""
        return False

    @property
    def min_updates(self) -> int:
        """One update of a group suffices."""
        return 1

    def init(self, params: Params) -> ServerState:
        """Return the state before round 0."""
        return ServerState(params=dict(params))

    def rebase(self, state: ServerState, params: Params) -> ServerState:
        """Return the state with injected parameters as its new base."""
        return rebased(state, params)


def stepped(state: ServerState, step: Params, **slots: Params) -> ServerState:
    """Return the state a round later: theta + step, and new moments of the same names.

    Args:
        state: The state before the round.
        step: What is added to each parameter; one without a step keeps its value. Its tensors
            become the new parameters': a sum beside them would be one model more in memory.
        slots: New moments of those parameters that have a step; the others keep theirs.
    """
    return replace(
        state,
        params=_overlaid(state.params, {n: s.add_(state.params[n]) for n, s in step.items()}),
        slots={slot: _overlaid(state.slots[slot], new) for slot, new in slots.items()},
        round_index=state.round_index + 1,
    )


def _overlaid(old: Params, new: Params) -> Params:
    return {name: new.get(name, value) for name, value in old.items()}
