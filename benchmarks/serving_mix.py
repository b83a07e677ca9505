"""What it costs to mix tasks, and what HTTP and Serve add to the engine.

    python -m benchmarks.serving_mix BUNDLE --data ROOT --out mix.json
    RAY_SERVE_ENABLE_HA_PROXY=1 python -m benchmarks.serving_mix BUNDLE --data ROOT --http-only

Mixing: every task alone, and all of its kind in turn, take the same load. The mixture's median
latency is compared with the mean of its tasks' own in one repetition, because some tasks' inputs
are larger than others'. HTTP: one client asks the service, and each question is answered at once
again by decoders and engine in one process, without HTTP and Serve; the median of the differences
counts, so that a machine whose speed wanders slows both alike. Serve's proxy is the one that its
environment variable names, Python's or HAProxy.
"""

import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import torch

from benchmarks.harness import report
from benchmarks.serving_tools import GENERATED, YES_NO, measure, questions, served, serving_options
from fedkim_ray.bundle.read import load_bundle
from serve.gateway import Gateway
from serve.schemas import PredictRequest
from serve.transformers_engine import TransformersEngine

KINDS = {"yes/no": YES_NO, "generation": GENERATED}
WARM_UP = 3
"""Pairs of answers that do not count."""
HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
AS_JSON = {"Content-Type": "application/json"}
HTTP_TASKS = {"image": "lung_opacity", "electrocardiogram": "ecg_abnormal", "series": "mortality"}


def mixing(url: str, file: Path, settings: Any) -> dict[str, Any]:
    """Return, for each kind of task, latencies alone and mixed, and their ratio."""
    results: dict[str, Any] = {}
    for kind, tasks in KINDS.items():
        asked = {task: questions(url, (task,), settings.max_tokens) for task in tasks}
        asked["mixed"] = questions(url, tasks, settings.max_tokens)
        measure(url, asked["mixed"], file, settings.mix_clients, settings.seconds)
        runs: dict[str, list[float]] = {name: [] for name in asked}
        for _ in range(settings.repeats):
            for name, own in asked.items():
                got = measure(url, own, file, settings.mix_clients, settings.seconds)
                runs[name].append(got["p50_ms"])
        alone = [statistics.mean(row) for row in zip(*(runs[t] for t in tasks), strict=True)]
        results[kind] = {
            "p50_ms": {name: statistics.median(own) for name, own in runs.items()},
            "mean_of_tasks_alone_ms": statistics.median(alone),
            "mixed_over_alone": statistics.median(
                mixed / mean for mixed, mean in zip(runs["mixed"], alone, strict=True)
            ),
        }
    return results


def http_and_serve(url: str, settings: Any) -> dict[str, Any]:
    """Return the latency of one client's questions over HTTP and in one process, in turn."""
    engine = TransformersEngine(load_bundle(settings.bundle))
    gateway = Gateway(engine)
    results: dict[str, Any] = {}
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as web, asyncio.Runner() as loop:
        for name, task in HTTP_TASKS.items():
            asked = questions(url, (task,), settings.max_tokens)
            pairs = []
            for question in islice(cycle(asked), settings.pairs + WARM_UP):
                sent = json.dumps(question["body"])
                over_http = timed_ms(web.post, question["path"], content=sent, headers=AS_JSON)
                body = PredictRequest.model_validate(question["body"])
                inside = timed_ms(loop.run, answer(gateway, task, body))
                pairs.append((over_http, inside))
            results[name] = {
                "http_p50_ms": statistics.median(http for http, _ in pairs[WARM_UP:]),
                "in_process_p50_ms": statistics.median(inside for _, inside in pairs[WARM_UP:]),
                "added_ms": statistics.median(http - own for http, own in pairs[WARM_UP:]),
            }
    engine.close()
    return results


async def answer(gateway: Gateway, task: str, body: PredictRequest) -> None:
    """Answer a question that is parsed already."""
    known = await gateway.find_task(task, body)
    await gateway.predict(await gateway.understand_inputs(known, body))


def timed_ms(ask: Callable[..., object], *given: Any, **named: Any) -> float:
    """Return how long one question takes."""
    started = time.perf_counter()
    ask(*given, **named)
    return 1e3 * (time.perf_counter() - started)


def main() -> None:
    """Measure both."""
    parser = serving_options(__doc__ or "")
    parser.add_argument("--mix-clients", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=60, help="answers over HTTP and inside")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one load")
    parser.add_argument("--max-tokens", type=int, default=16, help="of a generated answer")
    parser.add_argument("--http-only", action="store_true", help="leave out what mixing costs")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    with served(settings) as service, TemporaryDirectory() as scratch:
        results: dict[str, Any] = {"haproxy": os.environ.get(HAPROXY) == "1"}
        results["http_and_serve"] = http_and_serve(service.url, settings)
        if not settings.http_only:
            results["mixing"] = mixing(service.url, Path(scratch, "questions.json"), settings)
    report(__doc__ or "", vars(settings), results, settings.out)


if __name__ == "__main__":
    main()
