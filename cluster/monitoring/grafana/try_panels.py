"""Ask a Prometheus each panel's query over the last hour, and say which have data.

    python cluster/monitoring/grafana/try_panels.py http://127.0.0.1:9090

A panel without data is no fault where nothing of its kind happened: no GPU, no refused question.
Exit code 1 where the server does not answer, or refuses a query.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import httpx

DASHBOARDS = Path(__file__).parent / "dashboards"
LOOK_BACK_S, STEP_S = 3600, 15


def has_data(url: str, query: str) -> bool:
    """Return whether a query had a number at any time of the last hour."""
    now = time.time()
    span: dict[str, Any] = {"start": now - LOOK_BACK_S, "end": now, "step": STEP_S}
    answer = httpx.get(
        f"{url}/api/v1/query_range", params={"query": query} | span, timeout=60, trust_env=False
    )
    answer.raise_for_status()
    series = answer.json()["data"]["result"]
    return any(math.isfinite(float(value)) for each in series for _, value in each["values"])


def main(url: str) -> None:
    """Print a line a panel."""
    for file in sorted(DASHBOARDS.glob("*.json")):
        page = json.loads(file.read_text())
        print(f"\n{page['title']}")
        for panel in page["panels"]:
            filled = [has_data(url, target["expr"]) for target in panel["targets"]]
            said = "ok     " if all(filled) else "part   " if any(filled) else "no data"
            print(f"  {said}  {panel['title']}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (httpx.HTTPError, TypeError) as error:
        sys.exit(f"{error}\nUsage: try_panels.py URL-OF-PROMETHEUS")
