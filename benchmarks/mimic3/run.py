"""How fast is a MIMIC-III-shaped download imported, and does its size show in memory?

Each size is generated, then imported in a process of its own, whose greatest resident memory and
time are taken after the pass over the tables and at the end. The pass gathers events up to a bound,
and rows wait to be written up to another: memory must stop growing once the size is above them.
SYNTHETIC data; the disk is read through the system's cache.

    python -m benchmarks.mimic3.run --rows 1000000 10000000 --out benchmarks/results/mimic3.json
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import options, report
from benchmarks.mimic3.generate import write_download
from fedkim_ray.data.importing.request import ImportRequest
from fedkim_ray.data.importing.run import run_import


def import_once(source: Path, root: Path) -> dict[str, float]:
    """Import with one worker, and return seconds and the process's peak memory in MB."""
    begun, reading, tables_peak_mb = time.perf_counter(), 0.0, 0.0

    def note(done: int, total: int, what: str) -> None:
        nonlocal reading, tables_peak_mb
        if what == "reading" and not reading:
            reading, tables_peak_mb = time.perf_counter(), peak_mb()

    key = root.parent / "key"
    run_import(
        ImportRequest(
            importer="mimic3", source=str(source), root=str(root), key_path=key, workers=1
        ),
        note,
    )
    end = time.perf_counter()
    return {
        "tables_s": reading - begun,
        "tables_peak_mb": tables_peak_mb,
        "grids_s": end - reading,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """Return the greatest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(rows: int) -> dict[str, Any]:
    """Generate, import in a process of its own, and remove."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "source")
        begun = time.perf_counter()
        total = write_download(source, rows)
        generated_s = time.perf_counter() - begun
        size_mb = sum(p.stat().st_size for p in source.iterdir()) / 1e6
        command = [sys.executable, "-m", "benchmarks.mimic3.run", "--one", str(source)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result = json.loads(done.stdout)
    return {
        "chart_rows": rows,
        "rows": total,
        "gzip_mb": size_mb,
        "generated_s": generated_s,
        **result,
        "rows_per_s": total / result["tables_s"],
    }


def main() -> None:
    parser = options("Import MIMIC-III-shaped tables of several sizes.")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000])
    parser.add_argument("--one", type=Path, help="import this folder and print what it took")
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(import_once(chosen.one, chosen.one.parent / "root")))
        return
    results = [measure(rows) for rows in chosen.rows]
    settings = {"rows": chosen.rows, "workers": 1, "kind": "synthetic"}
    report("How fast is MIMIC-III imported, in which memory?", settings, results, chosen.out)


if __name__ == "__main__":
    main()
