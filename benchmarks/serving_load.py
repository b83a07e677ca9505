"""The load of the serving benchmarks, in a process of its own: clients that ask without pause.

Prints one JSON object: requests and tokens a second, percentiles of the latency, and errors.
"""

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np

JSON = {"Content-Type": "application/json"}


@dataclass
class Told:
    """What came of the load."""

    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    errors: int = 0
    lasted_s: float = 0.0

    def facts(self) -> dict[str, float]:
        """Return rates a second and latencies in milliseconds."""
        p50, p95, p99 = (float(1e3 * np.percentile(self.seconds, p)) for p in (50, 95, 99))
        return {
            "requests_per_s": len(self.seconds) / self.lasted_s,
            "tokens_per_s": self.tokens / self.lasted_s,
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "requests": len(self.seconds),
            "errors": self.errors,
        }


async def ask_for(
    url: str, questions: list[dict[str, Any]], num_clients: int, seconds: float
) -> Told:
    """Ask the questions in turn for so long, and wait for the last answers."""
    # Written once, so that the load costs the machine little beside the service.
    turn = cycle([(q["path"], json.dumps(q["body"]).encode()) for q in questions])
    told, limits = Told(), httpx.Limits(max_connections=num_clients)
    async with httpx.AsyncClient(base_url=url, timeout=240, limits=limits, trust_env=False) as web:
        began = time.perf_counter()

        async def client() -> None:
            while time.perf_counter() - began < seconds:
                (path, body), asked = next(turn), time.perf_counter()
                answer = await web.post(path, content=body, headers=JSON)
                if answer.status_code != 200:
                    told.errors += 1
                    continue
                told.seconds.append(time.perf_counter() - asked)
                told.tokens += sum(d["completion_tokens"] for d in answer.json()["data"])

        await asyncio.gather(*(client() for _ in range(num_clients)))
        told.lasted_s = time.perf_counter() - began
    return told


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
    print(json.dumps(asyncio.run(asked).facts()))


if __name__ == "__main__":
    main()
