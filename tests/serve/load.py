"""A load of clients that ask without pause, and what they were told."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Told:
    """One answer."""

    status: int
    """0 where the connection broke."""
    version: str
    """Bundle version of the answer; empty for an error."""
    retry_after: str
    seconds: float


@dataclass
class Load:
    """So many clients that ask one question over and over; ends with its block."""

    url: str
    body: dict[str, Any]
    num_clients: int = 8
    told: list[Told] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        for _ in range(self.num_clients):
            self._threads.append(threading.Thread(target=self._ask, daemon=True))
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
            thread.join(TIMEOUT_S)
            assert not thread.is_alive(), "a request hangs"

    def _ask(self) -> None:
        with httpx.Client(timeout=TIMEOUT_S) as web:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    answer = web.post(self.url, json=self.body)
                    version = answer.json().get("bundle_version", "")
                    after = answer.headers.get("retry-after", "")
                    told = (answer.status_code, version, after)
                except (httpx.HTTPError, ValueError):
                    told = (0, "", "")
                self.told.append(Told(*told, time.monotonic() - began))

    @property
    def statuses(self) -> Counter[int]:
        """How often each status came."""
        return Counter(told.status for told in self.told)

    @property
    def versions(self) -> list[str]:
        """Versions in the order in which they first answered."""
        return list(dict.fromkeys(told.version for told in self.told if told.version))
