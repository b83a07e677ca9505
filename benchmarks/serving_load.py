"""The load of ``serving.py``, in a process of its own: clients that ask without pause.

Prints one JSON object: requests and tokens a second, and percentiles of the latency.
"""

import argparse
import asyncio
import json
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np


async def ask_for(
    url: str, questions: list[dict[str, Any]], num_clients: int, seconds: float
) -> dict[str, float]:
    """Ask the questions in turn for so long; an answer that is no 200 ends the measurement."""
    turn, taken, tokens = cycle(questions), [], 0
    limits = httpx.Limits(max_connections=num_clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as web:
        began = time.perf_counter()

        async def client() -> None:
            nonlocal tokens
            while time.perf_counter() - began < seconds:
                question, asked = next(turn), time.perf_counter()
                answer = await web.post(question["path"], json=question["body"])
                answer.raise_for_status()
                taken.append(time.perf_counter() - asked)
                tokens += answer.json()["data"][0]["completion_tokens"]

        await asyncio.gather(*(client() for _ in range(num_clients)))
        lasted = time.perf_counter() - began
    p50, p95, p99 = (float(1e3 * np.percentile(taken, p)) for p in (50, 95, 99))
    rates = {"requests_per_s": len(taken) / lasted, "tokens_per_s": tokens / lasted}
    return rates | {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def main() -> None:
    """Read questions from a file, ask them, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("questions", help="JSON list of {path, body}")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    questions = json.loads(Path(options.questions).read_text())
    asked = ask_for(options.url, questions, options.clients, options.seconds)
    print(json.dumps(asyncio.run(asked)))


if __name__ == "__main__":
    main()
