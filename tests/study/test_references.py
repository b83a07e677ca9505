"""Which references are made again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fedkim_ray.study.plan import plan_study
from fedkim_ray.study.references import _digest


def test_references_of_other_data_are_made_again(
    score: Callable[..., None], tiny_root: str, tmp_path: Path
) -> None:
    sets = [f"data.root={tiny_root}"]
    (run,) = plan_study(str(tmp_path), "tiny", ["fedkim"], [0], sets, tasks=["mortality"])
    score(run, "mortality")
    assert _digest(replace(run)) == _digest(run)
    assert _digest(replace(run, data={**run.data, "clients": "0" * 64})) != _digest(run)
