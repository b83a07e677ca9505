"""Clients that ask one question after another, and what they were told."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from types import TracebackType
from typing import Any, Self

import httpx

HANGS_S = 90.0
"""An answer that takes longer counts as none."""


@dataclass(frozen=True, slots=True)
class Told:
    """One answer."""

    status: int
    """0 where the connection broke or nothing came."""
    version: str
    """Bundle version in the answer; empty in an error."""
    retry_after: str
    text: str
    """Of an error."""


@dataclass
class Load:
    """So many clients that ask questions (path and body) in turn; they end with the block."""

    url: str
    questions: Sequence[tuple[str, dict[str, Any]]]
    num_clients: int
    pause_s: float = 0.0
    """Seconds between an answer and the client's next question; leaves replicas time to start."""
    told: list[Told] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._web = httpx.Client(
            base_url=self.url,
            timeout=HANGS_S,
            trust_env=False,
            limits=httpx.Limits(max_connections=self.num_clients),
        )
        for place in range(self.num_clients):
            self._threads.append(threading.Thread(target=self._ask, args=(place,), daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(HANGS_S)
        assert not any(thread.is_alive() for thread in self._threads), "a request hangs"
        self._web.close()

    def _ask(self, place: int) -> None:
        turn = cycle([*self.questions[place:], *self.questions[:place]])
        while not self._stop.wait(self.pause_s):
            path, body = next(turn)
            try:
                answer = self._web.post(path, json=body)
            except httpx.HTTPError as error:
                self.told.append(Told(0, "", "", repr(error)))
                continue
            good = answer.status_code == 200
            version = answer.json()["bundle_version"] if good else ""
            after = answer.headers.get("retry-after", "")
            self.told.append(Told(answer.status_code, version, after, "" if good else answer.text))

    @property
    def statuses(self) -> Counter[int]:
        """How often each status came."""
        return Counter(told.status for told in self.told)

    def failures(self, *allowed: int) -> list[Told]:
        """Return answers of other statuses than 200 and these, a few of them."""
        return [told for told in self.told if told.status not in (200, *allowed)][:3]

    def more(self, num: int) -> Callable[[], bool]:
        """Return a condition: so many more good answers than now."""
        enough = self.statuses[200] + num
        return lambda: self.statuses[200] >= enough


def wait_until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait for a condition, at most so long."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"not within {seconds:g} s"
        time.sleep(0.2)
