"""Ray Train 2.60 without what nobody here would ask: helper processes, and imports of torch.

Every helper of a run is a Python process of its own: seconds of a core to start, and from then on
it wakes all the time, even with nothing to do, and stops a training thread on a busy core. A
federation has a run for each client.
"""

from typing import Any, ClassVar

from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


class LeanTrainer(DataParallelTrainer):
    """A run whose workers read their data themselves, not through Ray Data.

    With a ``TorchConfig`` for its backend it is a ``TorchTrainer``; without one its controller does
    not import torch, and its workers are no process group.
    """

    unused: ClassVar[tuple[type, ...]] = (DatasetsCallback,)
    """Callbacks of Ray Train that start a helper to no purpose."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, self.unused)]


class MemberTrainer(LeanTrainer):
    """One whose placement group its starter knows and frees, whatever becomes of its controller."""

    unused = (DatasetsCallback, PlacementGroupCleanerCallback)
