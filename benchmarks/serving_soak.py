"""Does the service stay whole under a load that lasts: errors, and the slope of its memory.

    python -m benchmarks.serving_soak BUNDLE --data ROOT --minutes 10 --out soak.json

Sixteen clients ask all twelve tasks in turn. The memory of Serve's processes is read every second;
the slope is that of the straight line of least squares after the first fifth of the time.
"""

import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.harness import report
from benchmarks.serving_tools import (
    GENERATED,
    YES_NO,
    measure,
    questions,
    served,
    service_rss_mib,
    serving_options,
)

WARM_SHARE = 0.2
EVERY_S = 1.0


class Memory:
    """Reads the service's memory until its block ends."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self.sizes_mib: list[dict[str, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._over.wait(EVERY_S):
            self.times_s.append(time.monotonic())
            self.sizes_mib.append(service_rss_mib())

    def facts(self) -> dict[str, Any]:
        """Return, for each process, its memory after the warm-up and at the end, and the slope."""
        warm = int(WARM_SHARE * len(self.times_s))
        minutes = (np.array(self.times_s[warm:]) - self.times_s[warm]) / 60
        found = {}
        for name in self.sizes_mib[-1]:
            mib = np.array([sizes.get(name, 0.0) for sizes in self.sizes_mib[warm:]])
            slope = float(np.polyfit(minutes, mib, 1)[0])
            found[name] = {"first": mib[0], "last": mib[-1], "slope_mib_per_min": slope}
        return found


def main() -> None:
    """Run the load."""
    parser = serving_options(__doc__ or "")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--max-tokens", type=int, default=16, help="of a generated answer")
    settings = parser.parse_args()
    with (
        served(settings) as service,
        TemporaryDirectory() as scratch,
    ):
        asked = questions(service.url, YES_NO + GENERATED, settings.max_tokens)
        file = Path(scratch, "questions.json")
        with Memory() as memory:
            load = measure(service.url, asked, file, settings.clients, 60 * settings.minutes)
        results = {"load": load, "memory_mib": memory.facts()}
    report(__doc__ or "", vars(settings), results, settings.out)


if __name__ == "__main__":
    main()
