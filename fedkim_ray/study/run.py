"""Train and evaluate the runs of a study, each once.

What is finished is not done again. The clients' first round depends on few parts of a recipe
(``plan.first_round_inputs``); runs that agree on those share it: it is computed once and its
publication copied, so the result is the one that each would have come to by itself.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from fedkim_ray.federation.round_files import AGGREGATED, AGGREGATED_VERSION
from fedkim_ray.pipeline import OnEvent, plan_run, run_recipe
from fedkim_ray.ray_session import ray_session
from fedkim_ray.run_folder import RUN_FILE, RunFolder, aggregated_in
from fedkim_ray.storage import copy_published, is_published
from fedkim_ray.study.plan import PlannedRun, first_round_inputs
from fedkim_ray.types import TaskId

SHARED = "first_round_shared"


def run_study(
    runs: Sequence[PlannedRun],
    on_run: Callable[[int, PlannedRun], None],
    watch: Callable[[], AbstractContextManager[OnEvent]],
    score: Callable[[RunFolder, Sequence[TaskId]], Any],
) -> None:
    """Train and evaluate every run that is not finished, in order; runs share one Ray.

    Args:
        runs: From ``plan_study``.
        on_run: Told number and run before each starts.
        watch: Gives, for the length of a run, whom to tell what happens in it.
        score: Evaluates a finished run on some tasks; see ``run_report.score_run``.
    """
    waiting = [(number, run) for number, run in enumerate(runs) if not run.is_evaluated]
    if not waiting:
        return
    num_clients = max(len(plan_run(run.recipe).tasks_by_client) for _, run in waiting)
    # The run that reserves the most: clients beside the injection.
    largest = max((run.recipe for _, run in waiting), key=lambda r: r.federation.clients_train)
    with ray_session(largest, num_clients):
        for number, run in waiting:
            on_run(number, run)
            folder = _open(run)
            if not is_published(folder.bundle):
                _share_first_round(run, folder, runs)
                with watch() as on_event:
                    run_recipe(folder, on_event)
            score(folder, run.asked)


def _open(run: PlannedRun) -> RunFolder:
    """Go on with an unfinished run, or start it."""
    if run.folder.exists(RUN_FILE):
        return RunFolder.open(run.folder.url, run.recipe)
    return RunFolder.create(run.folder.url, run.recipe, run.data)


def _share_first_round(run: PlannedRun, folder: RunFolder, runs: Sequence[PlannedRun]) -> None:
    """Copy the first round's aggregation from a run that agrees on all of its inputs."""
    target, own = folder.aggregated(0), first_round_inputs(run.recipe)
    if is_published(target):
        return
    for other in runs:
        source = aggregated_in(other.folder, 0)
        if first_round_inputs(other.recipe) == own and is_published(source):
            copy_published(source, target, AGGREGATED, AGGREGATED_VERSION)
            folder.log({"event": SHARED, "from": source.url})
            return
