"""How many questions a second the service answers, against FastAPI with ``generate``.

    python -m benchmarks.serving BUNDLE --data ROOT --out serving.json

Tasks of a kind are mixed. Both serve the same bundle on the same threads, each in processes of its
own, as does the load. They take turns within every repetition; quoted are medians, and medians of
the ratios of one repetition.
The peer answers one question at a time, so that its rate says all about it: it meets the smallest
and the largest number of clients in ``--peer-clients`` alone. A trained bundle ends an answer after
its word, as the peer's yes/no should. An untrained one (``benchmarks.untrained``) goes on to the
last token, as a generated answer must that is to measure tokens a second.
"""

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.harness import report
from benchmarks.serving_tools import (
    GENERATED,
    MIB,
    YES_NO,
    measure,
    questions,
    served,
    service_rss_mib,
    serving_options,
)

START_S = 120.0
CASES = {"yes/no": YES_NO, "generation": GENERATED}
WARM_UP_S = 2.0


@contextmanager
def peer(bundle: str, threads: int, yes_no_tokens: int) -> Iterator[tuple[str, psutil.Process]]:
    """Run the peer, and give its address and process once it listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.serving_peer", bundle]
    command += ["--port", str(port), "--threads", str(threads)]
    process = subprocess.Popen([*command, "--yes-no-tokens", str(yes_no_tokens)])
    try:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(10)


def compare(urls: dict[str, str], asked: Any, file: Path, settings: Any) -> dict[str, Any]:
    """Let service and peer take turns at every number of clients; return medians and ratios."""
    turns = [
        (name, clients)
        for clients in settings.clients
        for name in urls
        if name == "service" or clients in settings.peer_clients
    ]
    for url in urls.values():
        measure(url, asked, file, 1, WARM_UP_S)
    runs: dict[tuple[str, int], list[dict[str, float]]] = {turn: [] for turn in turns}
    for _ in range(settings.repeats):
        for name, clients in turns:
            runs[name, clients].append(measure(urls[name], asked, file, clients, settings.seconds))
    results: dict[str, Any] = {
        f"{name}, {clients} clients": {
            key: statistics.median(run[key] for run in own) for key in own[0]
        }
        for (name, clients), own in runs.items()
    }
    for clients in settings.peer_clients:
        pairs = list(zip(runs["service", clients], runs["peer", clients], strict=True))
        results[f"service over peer, {clients} clients"] = {
            key: statistics.median(ours[key] / theirs[key] for ours, theirs in pairs)
            for key in ("requests_per_s", "tokens_per_s", "p50_ms")
        }
    return results


def main() -> None:
    """Measure the cases at every number of clients."""
    parser = serving_options(__doc__ or "")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--peer-clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--peer-yes-no-tokens", type=int, default=8, help="at most, of the peer")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one load")
    parser.add_argument("--max-tokens", type=int, default=32, help="of a generated answer")
    settings = parser.parse_args()
    results: dict[str, Any] = {}
    with (
        served(settings) as service,
        peer(settings.bundle, settings.threads, settings.peer_yes_no_tokens) as (url, process),
        TemporaryDirectory() as scratch,
    ):
        urls = {"service": service.url, "peer": url}
        for case in settings.cases:
            asked = questions(service.url, CASES[case], settings.max_tokens)
            results[case] = compare(urls, asked, Path(scratch, "questions.json"), settings)
        peer_mib = process.memory_info().rss / MIB
        results["rss_mib"] = {"service": service_rss_mib(), "peer": peer_mib}
    report(__doc__ or "", vars(settings), results, settings.out)


if __name__ == "__main__":
    main()
