"""What the controller of a member's Ray Train run tells the mailbox. It imports no torch."""

from typing import Any

import ray

from fedkim_ray.ray_placement import PlacementFreed


class MailboxTold(PlacementFreed):
    """Tells the mailbox what of a run stays in the cluster: ``fit`` offers no way to end it."""

    def __init__(self, mailbox: Any) -> None:
        super().__init__()
        self._mailbox = mailbox

    def after_controller_start(self, train_run_context: Any) -> None:
        """Send this controller's own handle."""
        controller = ray.get_runtime_context().current_actor
        ray.get(self._mailbox.add_controller.remote(controller))

    def before_init_train_context(self, workers: Any) -> dict[str, list[Any]]:
        """Send the placement group of the new workers."""
        arguments = super().before_init_train_context(workers)
        ray.get(self._mailbox.add_placement.remote(self._placement))
        return arguments
