"""Ray Train 2.60 without the helper processes that nobody here would ask.

Every helper of a run is a Python process of its own: seconds of a core to start, and from then on
hundreds of wake-ups a second, each of which stops a training thread on a busy core. A federation
has a run for each client.
"""

from typing import Any, ClassVar

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback


class LeanTrainer(TorchTrainer):
    """A ``TorchTrainer`` whose workers read their data themselves, not through Ray Data."""

    unused: ClassVar[tuple[type, ...]] = (DatasetsCallback,)
    """Callbacks of Ray Train that start a helper to no purpose."""

    def _create_default_callbacks(self) -> list[Any]:
        # mypy reads Ray Train 1; this is 2
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in callbacks if not isinstance(callback, self.unused)]


class MemberTrainer(LeanTrainer):
    """One whose placement group its starter knows and frees, whatever becomes of its controller."""

    unused = (DatasetsCallback, PlacementGroupCleanerCallback)
