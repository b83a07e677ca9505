"""Which references are made again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fedkim_ray.study.plan import plan_study
from fedkim_ray.study.references import _digest, _Makers


def test_references_of_other_data_are_made_again(
    score: Callable[..., None], tiny_root: str, tmp_path: Path
) -> None:
    sets = [f"data.root={tiny_root}"]
    (run,) = plan_study(str(tmp_path), "tiny", ["fedkim"], [0], sets, tasks=["mortality"])
    score(run, "mortality")
    assert _digest(replace(run)) == _digest(run)
    assert _digest(replace(run, data={**run.data, "clients": "0" * 64})) != _digest(run)


def test_what_was_asked_nothing_is_not_trained(
    score: Callable[..., None], tiny_root: str, tmp_path: Path
) -> None:
    # Client north has X-rays and ECGs alone; nobody trains sepsis.
    sets = [f"data.root={tiny_root}"]
    found = {}
    for task in ("mortality", "sepsis"):
        (run,) = plan_study(str(tmp_path / task), "tiny", ["fedkim"], [0], sets, tasks=[task])
        score(run, task)
        found[task] = list(_Makers(run).wanted(["clients", "public"]))
    assert found == {"mortality": ["client:south", "public"], "sepsis": []}
