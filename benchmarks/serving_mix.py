"""What it costs to mix tasks, and what HTTP and Serve add to the engine.

    python -m benchmarks.serving_mix BUNDLE --data ROOT --out mix.json

Mixing: every task alone, and all of its kind in turn, take the same load. The mixture's median
latency is compared with the mean of its tasks' own in one repetition, because some tasks' inputs
are larger than others'. HTTP: one client asks the service, and the same questions are answered by
decoders and engine in one process, without HTTP and Serve.
"""

import asyncio
import statistics
import time
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.harness import report
from benchmarks.serving_tools import GENERATED, YES_NO, measure, questions, served, serving_options
from fedkim_ray.bundle.read import load_bundle
from serve.gateway import Gateway
from serve.schemas import PredictRequest
from serve.transformers_engine import TransformersEngine

KINDS = {"yes/no": YES_NO, "generation": GENERATED}
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


def http_and_serve(url: str, file: Path, settings: Any) -> dict[str, Any]:
    """Return the median latency of one client's questions over HTTP and in one process."""
    engine = TransformersEngine(load_bundle(settings.bundle))
    results: dict[str, Any] = {}
    for name, task in HTTP_TASKS.items():
        asked = questions(url, (task,), settings.max_tokens)
        over_http, inside = [], []
        for repeat in range(-1, settings.repeats):
            got = measure(url, asked, file, 1, settings.seconds)["p50_ms"]
            own = asyncio.run(in_process(engine, task, asked, settings.seconds))
            if repeat >= 0:
                over_http.append(got)
                inside.append(own)
        results[name] = {
            "http_p50_ms": statistics.median(over_http),
            "in_process_p50_ms": statistics.median(inside),
            "added_ms": statistics.median(a - b for a, b in zip(over_http, inside, strict=True)),
        }
    engine.close()
    return results


async def in_process(
    engine: TransformersEngine, task: str, asked: list[dict[str, Any]], seconds: float
) -> float:
    """Return the median latency in ms of questions that are parsed already, one after another."""
    gateway = Gateway(engine)
    bodies = cycle([PredictRequest.model_validate(question["body"]) for question in asked])
    taken, began = [], time.perf_counter()
    while time.perf_counter() - began < seconds:
        started = time.perf_counter()
        await gateway.predict(await gateway.understand_inputs(task, next(bodies)))
        taken.append(time.perf_counter() - started)
    return float(1e3 * np.median(taken))


def main() -> None:
    """Measure both."""
    parser = serving_options(__doc__ or "")
    parser.add_argument("--mix-clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one load")
    parser.add_argument("--max-tokens", type=int, default=16, help="of a generated answer")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    with (
        served(settings) as service,
        TemporaryDirectory() as scratch,
    ):
        file = Path(scratch, "questions.json")
        results = {
            "http_and_serve": http_and_serve(service.url, file, settings),
            "mixing": mixing(service.url, file, settings),
        }
    report(__doc__ or "", vars(settings), results, settings.out)


if __name__ == "__main__":
    main()
