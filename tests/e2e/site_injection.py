"""Where injection workers run on three users' nodes: a part of ``test_sites.py``.

Starts one worker a selector, as the recipe's ``injection.worker_selector`` has it, and says in
JSON which site's node took it.
"""

import json
import sys
from contextlib import closing
from typing import Any

import ray

from fedkim_ray.config import InjectionConfig
from fedkim_ray.injection.ray_trainer import InjectionRun
from fedkim_ray.ray_connection import join_or_start

SELECTORS = ("south", "!in(north, south)")


def say_where(config: dict[str, Any]) -> None:
    """Tell the driver this worker's site in place of a step."""
    site = ray.get_runtime_context().get_node_labels().get("site", "none")
    config["progress"].put((0, site))


def main(scratch: str) -> None:
    """Run a worker for each selector."""
    seen: list[Any] = []
    with join_or_start():
        for selector in SELECTORS:
            injection = InjectionConfig(worker_selector={"site": selector}, cpus_per_worker=0.5)
            run = InjectionRun(say_where, {}, injection, scratch, max_failures=0)
            with closing(run):
                run.wait(lambda _step, site: seen.append(site))
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
