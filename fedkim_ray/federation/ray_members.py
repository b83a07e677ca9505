"""What a member asks of the cluster, and how the driver learns of its end."""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedkim_ray.federation.members import MemberId
from fedkim_ray.federation.setup import Opener


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSpec:
    """What one member's workers ask of the cluster."""

    resources: Mapping[str, float]
    """Of each worker."""
    num_workers: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that its node must have."""


class MemberStarter(Protocol):
    """Starts members and ends them all."""

    def start(self, member: MemberId, spec: MemberSpec, setup: str, opener: Opener) -> None:
        """Start a member, and again whenever its process dies."""
        ...

    def end(self, timeout_s: float) -> None:
        """End all members: the mailbox has stopped; kill what does not end within the time."""
        ...


class Lives:
    """The lives of members, each followed by a thread of the driver.

    Args:
        mailbox: Told of a member that will not come back.
    """

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._threads: list[threading.Thread] = []

    def follow(self, member: MemberId, name: str, live: Callable[[], object]) -> None:
        """Call ``live``, which returns when the member has ended; whatever ends it is its loss.

        Args:
            member: Whose life it is.
            name: What to call it.
            live: Blocks until the end.
        """

        def to_the_end() -> None:
            cause = "it ended"
            try:
                live()
            except BaseException as error:  # SystemExit too: Ray Train's controller may raise it
                cause = type(error).__name__
            with suppress(Exception):
                self._mailbox.lose.remote(
                    member, f"{name!r} is over ({cause}); Ray's logs say why."
                )

        thread = threading.Thread(target=to_the_end, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def have_ended(self, timeout_s: float) -> bool:
        """Wait for all to end; return whether they have."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)
