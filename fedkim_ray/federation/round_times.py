"""Where a round's seconds go, and how long all wait for the slowest.

train       plans are out, and nobody's answer is there to be taken
collect     answers are read and validated
aggregate   everything else: updates are folded into the state
"""

import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, TypeVar

Phase: TypeAlias = Literal["train", "collect", "aggregate"]
Item = TypeVar("Item")


class RoundTimes:
    """A stopwatch: every second since it was made counts for one phase.

    Args:
        now: Seconds from any origin.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._phase: Phase = "aggregate"
        self._since_s = now()
        self._seconds: dict[str, float] = {}
        self._answered_s: list[float] = []
        self._waited_until_s = self._since_s

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each phase so far."""
        self._turn_to(self._phase)
        return dict(self._seconds)

    @property
    def slowest_wait_s(self) -> float:
        """Seconds from the median answer to the end of the waiting; 0 where nobody answered."""
        if not self._answered_s:
            return 0.0
        return self._waited_until_s - statistics.median_low(self._answered_s)

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Count the block for a phase; what was counted before goes on after it."""
        before = self._turn_to(phase)
        try:
            yield
        finally:
            self._turn_to(before)
            if phase == "train":
                self._waited_until_s = self._since_s

    def waiting_for(self, answers: Iterable[Item]) -> Iterator[Item]:
        """Yield answers; the time until each comes is the clients' training."""
        iterator = iter(answers)
        while True:
            with self.phase("train"):
                try:
                    answer = next(iterator)
                except StopIteration:
                    return
            self._answered_s.append(self._since_s)
            yield answer

    def _turn_to(self, phase: Phase) -> Phase:
        """Count what has passed, go on with another phase, and return the one before."""
        now, before = self._now(), self._phase
        self._seconds[before] = self._seconds.get(before, 0.0) + now - self._since_s
        self._phase, self._since_s = phase, now
        return before
