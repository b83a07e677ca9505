"""How many questions a second the service answers, against FastAPI with ``generate``.

    python -m benchmarks.serving BUNDLE --data ROOT --out serving.json

Both serve the same bundle on the same threads, each in processes of its own, as does the load. They
take turns within every repetition; quoted are medians, and medians of the ratios of one repetition.
"""

import json
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

import httpx
import psutil

from benchmarks.harness import options, report
from serve.server import run_server

START_S = 120.0
CASES = {
    "yes/no, one task": ("lung_opacity",),
    "yes/no, tasks mixed": ("lung_opacity", "covid19", "ecg_abnormal", "mortality"),
    "generation": ("slake_vqa",),
}


def questions(url: str, tasks: tuple[str, ...], max_tokens: int) -> list[dict[str, Any]]:
    """Return every sample of the tasks as a request, the tasks in turn."""
    with httpx.Client(base_url=url) as web:
        listed = web.get("/v1/samples").json()["data"]
        by_task = [[s["id"] for s in listed if s["task"] == task] for task in tasks]
        inputs = [
            web.get(f"/v1/samples/{i}").json() for ids in zip(*by_task, strict=False) for i in ids
        ]
    return [
        {
            "path": f"/v1/tasks/{sample['task']}/predict",
            "body": {"inputs": [sample["input"]], "max_tokens": max_tokens},
        }
        for sample in inputs
    ]


@contextmanager
def peer(bundle: str, threads: int) -> Iterator[tuple[str, psutil.Process]]:
    """Run the peer, and give its address and process once it listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.serving_peer", bundle]
    process = subprocess.Popen([*command, "--port", str(port), "--threads", str(threads)])
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


def measure(url: str, asked: Path, clients: int, seconds: float) -> dict[str, float]:
    """Return what one load of so many clients gives."""
    command = [sys.executable, "-m", "benchmarks.serving_load", url, str(asked)]
    command += ["--clients", str(clients), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def compare(systems: dict[str, str], asked: Path, clients: int, settings: Any) -> dict[str, Any]:
    """Let the systems take turns; return medians of each, and of the ratios within a turn."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in systems}
    for repeat in range(-1, settings.repeats):
        for name, url in systems.items():
            result = measure(url, asked, clients, settings.seconds)
            if repeat >= 0:
                runs[name].append(result)
    medians = {
        name: {key: statistics.median(r[key] for r in own) for key in own[0]}
        for name, own in runs.items()
    }
    ours, theirs = runs["service"], runs["peer"]
    ratios = {
        key: statistics.median(a[key] / b[key] for a, b in zip(ours, theirs, strict=True))
        for key in ours[0]
    }
    return {"medians": medians, "service_over_peer": ratios}


def service_rss_mib() -> dict[str, float]:
    """Return the memory of Serve's processes on this machine, by their titles."""
    sizes: dict[str, float] = {}
    for process in psutil.process_iter(["cmdline", "memory_info"]):
        title = " ".join(process.info["cmdline"] or ())
        if title.startswith("ray::Serve") or "ProxyActor" in title:
            key = title.split("#")[0].removeprefix("ray::")
            sizes[key] = sizes.get(key, 0.0) + process.info["memory_info"].rss / 2**20
    return sizes


def main() -> None:
    """Measure every case at every number of clients."""
    parser = options(__doc__ or "")
    parser.add_argument("bundle")
    parser.add_argument("--data", required=True, help="data root whose test rows are asked")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--seconds", type=float, default=5.0, help="of one load")
    parser.add_argument("--max-tokens", type=int, default=16, help="of a generated answer")
    settings = parser.parse_args()
    results: dict[str, Any] = {}
    service = run_server(
        settings.bundle,
        port=0,
        no_auth=True,
        samples=settings.data,
        engine_threads=settings.threads,
    )
    with (
        service,
        peer(settings.bundle, settings.threads) as (url, process),
        TemporaryDirectory() as d,
    ):
        systems = {"service": service.url, "peer": url}
        for case, tasks in CASES.items():
            asked = Path(d, "questions.json")
            asked.write_text(json.dumps(questions(service.url, tasks, settings.max_tokens)))
            for clients in settings.clients:
                results[f"{case}, {clients} clients"] = compare(systems, asked, clients, settings)
        peer_mib = process.memory_info().rss / 2**20
        results["rss_mib"] = {"service": service_rss_mib(), "peer": peer_mib}
    report(__doc__ or "", vars(settings), results, settings.out)


if __name__ == "__main__":
    main()
