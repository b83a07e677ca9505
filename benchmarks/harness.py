"""Measure peers side by side on a noisy machine, and say so in JSON.

Cases take turns within every repetition, so that a slow moment of the machine meets all of them;
medians are quoted, and ratios are medians of the ratios within a repetition. A figure without its
machine means nothing: every report carries it.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "deepspeed", "ray")


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one case took, in the order of the repetitions."""

    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """Median of the repetitions."""
        return statistics.median(self.seconds)

    def ratio_to(self, other: "Timing") -> float:
        """How many times as long as ``other`` this takes: the median within repetitions."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    def median_added_s(self, other: "Timing") -> float:
        """Seconds that this takes beyond ``other``: the median within repetitions."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(mine - theirs for mine, theirs in pairs)

    def as_json(self) -> dict[str, float]:
        """Median and extremes in seconds."""
        return {"median_s": self.median_s, "min_s": min(self.seconds), "max_s": max(self.seconds)}


def interleave(
    cases: Mapping[str, Callable[[], object]], repeats: int = 7, warmup: int = 1
) -> dict[str, Timing]:
    """Run every case once a repetition, in turn, and return their times.

    Args:
        cases: What to run, by name.
        repeats: Timed repetitions; an odd number has a median that was measured.
        warmup: Repetitions before them that are thrown away.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(-warmup, repeats):
        for name, case in cases.items():
            begun = time.perf_counter()
            case()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - begun)
    return {name: Timing(tuple(s)) for name, s in seconds.items()}


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def report(question: str, settings: Mapping[str, Any], results: Any, out: str | None) -> None:
    """Print a benchmark's JSON, and write it to ``out`` where given."""
    text = json.dumps(
        {
            "question": question,
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "settings": settings,
            "results": results,
        },
        indent=1,
    )
    print(text)
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(text + "\n")


def options(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=1, help="torch threads; pinned and reported")
    parser.add_argument("--repeats", type=int, default=7, help="timed repetitions of each case")
    parser.add_argument("--out", help="write the JSON there too")
    return parser


def _cpu_name() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
