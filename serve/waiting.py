"""The waiting room between callers and the one loop that owns the model."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from serve.engine import EngineRequest, Piece, Scored
from serve.errors import NotReadyError, OverloadedError


@dataclass(slots=True)
class ScoreJob:
    """A yes/no question and where its answer goes."""

    request: EngineRequest
    answer: "Future[Scored]" = field(default_factory=Future)
    arrived: float = field(default_factory=time.perf_counter)

    def fail(self, error: Exception) -> None:
        """Answer with an error, where it has no answer yet."""
        if not self.answer.done():
            self.answer.set_exception(error)


@dataclass(slots=True)
class StreamJob:
    """A question whose answer is generated, and where its pieces go."""

    request: EngineRequest
    emit: Callable[[Piece | Exception], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set by the consumer once it has gone away."""
    arrived: float = field(default_factory=time.perf_counter)

    def tell(self, item: Piece | Exception) -> None:
        """Hand one item to the consumer; one whose event loop has ended counts as gone."""
        try:
            self.emit(item)
        except RuntimeError:
            self.cancelled.set()


class WaitingRoom:
    """Jobs in order of arrival, at most ``max_waiting`` of them; safe between threads."""

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._change = threading.Condition()
        self._scores: deque[ScoreJob] = deque()
        self._streams: deque[StreamJob] = deque()
        self._taken_scores: list[ScoreJob] = []
        self._taken_streams: list[StreamJob] = []
        """Those taken out last: who takes more is done with the ones before."""
        self._closed = False

    def __len__(self) -> int:
        return len(self._scores) + len(self._streams)

    @property
    def num_streams(self) -> int:
        """How many wait for generated answers, but for those whose askers have gone."""
        with self._change:
            return sum(not job.cancelled.is_set() for job in self._streams)

    @property
    def closed(self) -> bool:
        """Whether nobody may come in any more."""
        return self._closed

    def enter(self, *jobs: ScoreJob | StreamJob) -> None:
        """Add jobs, all of them or none.

        Raises:
            OverloadedError: there is no room for all of them.
            NotReadyError: the engine has been closed.
        """
        with self._change:
            if self._closed:
                raise NotReadyError(
                    "The engine has been closed.", "It answers while it runs.", "Ask again later."
                )
            if len(self) + len(jobs) > self.max_waiting:
                self._forget_those_gone()
            if len(self) + len(jobs) > self.max_waiting:
                raise OverloadedError(
                    f"{len(self)} requests wait already.",
                    f"At most {self.max_waiting} wait for one replica.",
                    "Ask again after the time in Retry-After.",
                )
            self._scores.extend(job for job in jobs if isinstance(job, ScoreJob))
            self._streams.extend(job for job in jobs if isinstance(job, StreamJob))
            self._change.notify()

    def wait(self) -> None:
        """Block until somebody waits or the room is closed; who waits is done with whom it took.

        Those who have gone are to be forgotten before, or they end the wait.
        """
        self._taken_scores, self._taken_streams = [], []
        with self._change:
            self._change.wait_for(lambda: len(self) or self._closed)

    def forget_those_gone(self) -> None:
        """Take out those whose askers have gone: nobody else would, and they count as waiting."""
        with self._change:
            self._forget_those_gone()

    def take_scores(self, most: int) -> list[ScoreJob]:
        """Take out the first yes/no questions whose askers are still there."""
        taken: list[ScoreJob] = []
        with self._change:
            while self._scores and len(taken) < most:
                job = self._scores.popleft()
                if job.answer.set_running_or_notify_cancel():
                    taken.append(job)
        self._taken_scores = taken
        return taken

    def take_streams(self, most: int) -> list[StreamJob]:
        """Take out the first questions to generate for whose askers are still there."""
        taken: list[StreamJob] = []
        with self._change:
            while self._streams and len(taken) < most:
                job = self._streams.popleft()
                if not job.cancelled.is_set():
                    taken.append(job)
        self._taken_streams = taken
        return taken

    def _forget_those_gone(self) -> None:
        self._scores = deque(job for job in self._scores if not job.answer.cancelled())
        self._streams = deque(job for job in self._streams if not job.cancelled.is_set())

    def close(self) -> None:
        """Let nobody in any more and wake the loop."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def refuse_all(self, error: Exception) -> None:
        """Close, and end with an error all who wait and those taken out last without an answer."""
        self.close()
        for score in (*self._taken_scores, *self.take_scores(len(self._scores))):
            score.fail(error)
        for stream in (*self._taken_streams, *self.take_streams(len(self._streams))):
            stream.tell(error)
