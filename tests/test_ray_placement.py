"""Placement groups are freed, whatever Ray Train forgets."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from fedkim_ray import ray_placement
from fedkim_ray.ray_placement import PlacementFreed


@dataclass
class Worker:
    """A worker that stands in a placement group."""

    placement: str

    def execute_async(self, _: Callable[[], object]) -> str:
        """Say in which."""
        return self.placement


def test_what_workers_stood_in_is_freed_once_others_start_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    freed: list[str] = []
    monkeypatch.setattr(ray_placement, "remove_placement_group", freed.append)
    monkeypatch.setattr(ray_placement.ray, "get", lambda placement: placement)
    callback = PlacementFreed()
    callback.before_worker_group_start(None)
    assert callback.before_init_train_context([Worker("first"), Worker("first")]) == {}
    assert freed == []
    callback.before_worker_group_start(None)
    assert freed == ["first"]
    callback.before_init_train_context([Worker("second")])
    callback.after_controller_finish(None)
    assert freed == ["first", "second"]
