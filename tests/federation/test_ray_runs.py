"""What a member's Ray Train run is asked for."""

from pathlib import Path

import pytest

from fedkim_ray.federation.ray_members import MemberSpec
from fedkim_ray.federation.ray_runs import TrainRuns

pytestmark = pytest.mark.ray


def test_a_clients_other_workers_wait_longer_than_any_injection(tmp_path: Path) -> None:
    runs = TrainRuns("run", str(tmp_path), mailbox=None)
    spec = MemberSpec(resources={"CPU": 1.0}, num_workers=2)
    told = runs._trainer("run-north", spec, {}).backend_config.to_dict()
    assert told["backend"] == "gloo"
    assert told["timeout_s"] == 7 * 24 * 3600


def test_ray_train_counts_no_deaths_over_a_long_run(tmp_path: Path) -> None:
    runs = TrainRuns("run", str(tmp_path), mailbox=None)
    trainer = runs._trainer("run-north", MemberSpec(resources={"CPU": 1.0}), {})
    assert trainer.run_config.failure_config.max_failures == -1  # any number of restarts
