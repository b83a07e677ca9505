"""Does an import's memory grow with its source?

A long table of SYNTHETIC hourly vital signs of two sizes, imported by the command line in a process
of its own; the peak is that process's. JSON on stdout.

    python benchmarks/import_memory.py [--rows N N] [--out FILE]
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from harness import options, report

ROWS_PER_STAY = 96
MAPPING = """
table: stays.csv
title: synthetic
licence: none
kind: synthetic
task: mortality
subject: stay
label: died
series:
  vital:
    {table: vitals.csv, key: stay, hours: 24, layout: long, features: [
      {name: hrt, unit: 1/min, low: 20, high: 300}, {name: temp, unit: degC, low: 25, high: 45}]}
"""


def write_source(folder: Path, num_rows: int) -> int:
    """Write stays and their vital signs in random order; return the bytes."""
    rng = np.random.default_rng(0)
    stays = num_rows // ROWS_PER_STAY
    table = pa.table({"stay": range(stays), "died": rng.integers(0, 2, stays)})
    pyarrow.csv.write_csv(table, folder / "stays.csv")
    name = rng.integers(0, 2, num_rows)
    value = np.where(name, rng.normal(37, 0.5, num_rows), rng.normal(80, 9, num_rows)).round(1)
    vitals = {
        "stay": rng.integers(0, stays, num_rows),
        "hour": rng.integers(0, 30, num_rows),
        "name": np.array(["hrt", "temp"])[name],
        "value": value,
    }
    pyarrow.csv.write_csv(pa.table(vitals), folder / "vitals.csv")
    (folder / "mapping.yaml").write_text(MAPPING)
    return sum(path.stat().st_size for path in folder.iterdir())


def measure(num_rows: int) -> dict[str, Any]:
    """Import one size and return seconds and the peak."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "source")
        source.mkdir()
        size_bytes = write_source(source, num_rows)
        command = [sys.executable, "-c", "from fedkim_ray.cli.main import main; main()"]
        command += [
            "data",
            "import",
            "manifest",
            "--src",
            source,
            "--mapping",
            source / "mapping.yaml",
            "--workers",
            "1",
        ]
        command += ["--dst", Path(scratch, "root"), "--key", Path(scratch, "key")]
        begun = time.perf_counter()
        process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        whole = Path(scratch, "root", "dataset.json").exists()
    if status or not whole:
        raise SystemExit(f"the import of {num_rows} rows failed with status {status}")
    return {
        "rows": num_rows,
        "source_mb": round(size_bytes / 1e6, 1),
        "seconds": round(seconds, 1),
        "rows_per_s": round(num_rows / seconds),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }


def main() -> None:
    """Measure the sizes and print the report."""
    parser = options(__doc__ or "")
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000, 3_000_000])
    chosen = parser.parse_args()
    results = [measure(num_rows) for num_rows in chosen.rows]
    report("Does an import's memory grow with its source?", {"workers": 1}, results, chosen.out)


if __name__ == "__main__":
    main()
