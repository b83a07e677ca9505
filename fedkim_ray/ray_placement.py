"""What Ray Train 2.60 forgets: the placement group of workers that die while they are started.

A worker that is lost after its set-up and before its training function takes the controller's only
handle of the group with it: its CPUs and GPUs would be held until the driver's job ends, and the
workers that come in place of the lost ones may never fit.
"""

from typing import Any

import ray
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.util import get_current_placement_group, remove_placement_group


class PlacementFreed(ControllerCallback, WorkerGroupCallback):
    """Frees what a run's workers stood in before others are started, and at the run's end."""

    def __init__(self) -> None:
        self._placement: Any = None

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """Free what the workers before these stood in."""
        self._free()

    def before_init_train_context(self, workers: Any) -> dict[str, list[Any]]:
        """Ask the new workers where they stand: until now Ray Train would free it by itself."""
        self._placement = ray.get(workers[0].execute_async(get_current_placement_group))
        return {}

    def after_controller_finish(self, result: Any) -> None:
        """Free what the last workers stood in."""
        self._free()

    def _free(self) -> None:
        if self._placement is not None:
            remove_placement_group(self._placement)
            self._placement = None
