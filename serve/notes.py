"""What the layers of the HTTP app tell each other of one request.

The key check and the routes write it down on their way in, and the layers outside of them read it
once there is an answer: metrics, audit and quota know no body.
"""

from dataclasses import dataclass

from starlette.types import Scope

PLACE = "fedkim.notes"
"""Where the notes lie in the ASGI scope, the one object that all layers see."""
NOBODY_WAITED = 499


@dataclass(slots=True)
class Notes:
    """One request's; None is what nobody found out."""

    key: str | None = None
    """The name of its key."""
    task: str | None = None
    bundle_version: str | None = None
    """Of the bundle that answered."""
    broken: int | None = None
    """The status of the error that broke a stream off; the one that was sent said 200."""

    def status(self, sent: int) -> int:
        """Return what became of the request.

        Args:
            sent: The status that was sent, 0 for none.
        """
        return self.broken or sent or NOBODY_WAITED


def notes(scope: Scope) -> Notes:
    """Return a request's notes, blank where this is the first to ask."""
    found: Notes = scope.setdefault(PLACE, Notes())
    return found
