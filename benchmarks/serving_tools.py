"""What the serving benchmarks share: the service, questions, a load, and memory."""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.harness import options
from serve.server import RunningServer, run_server

MIB = 2**20
YES_NO = (
    *("lung_opacity", "covid19", "ecg_abnormal", "mortality", "enlarged_cardiomediastinum"),
    *("atelectasis", "pleural_effusion", "ectopic_beats", "sepsis"),
)
GENERATED = ("signal_noise", "med_vqa", "slake_vqa")


def serving_options(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that the serving benchmarks share."""
    parser = options(description)
    parser.add_argument("bundle")
    parser.add_argument("--data", required=True, help="data root whose test rows are asked")
    parser.add_argument(
        "--decode-in-api", action="store_true", help="as `fedkim serve --decode-in-api`"
    )
    return parser


def served(settings: argparse.Namespace) -> RunningServer:
    """Start the service that the options name; it ends with its block."""
    return run_server(
        settings.bundle,
        port=0,
        no_auth=True,
        samples=settings.data,
        engine_threads=settings.threads,
        **({"inputs_scaling": None} if settings.decode_in_api else {}),
    )


def questions(url: str, tasks: Sequence[str], max_tokens: int) -> list[dict[str, Any]]:
    """Return every sample of the tasks as a request, the tasks in turn."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as web:
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


def measure(
    url: str, asked: Sequence[dict[str, Any]], file: Path, clients: int, seconds: float
) -> dict[str, float]:
    """Return what one load of so many clients gives; ``file`` carries the questions there."""
    file.write_text(json.dumps(asked))
    command = [sys.executable, "-m", "benchmarks.serving_load", url, str(file)]
    command += ["--clients", str(clients), "--seconds", str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def service_rss_mib() -> dict[str, float]:
    """Return the memory of Serve's processes on this machine, by their titles."""
    sizes: dict[str, float] = {}
    for process in psutil.process_iter(["cmdline", "memory_info"]):
        title = " ".join(process.info["cmdline"] or ()).strip()
        if title.startswith("ray::Serve") or "ProxyActor" in title:
            key = title.split("#")[0].split(".")[0].removeprefix("ray::")
            sizes[key] = sizes.get(key, 0.0) + process.info["memory_info"].rss / MIB
    return sizes
