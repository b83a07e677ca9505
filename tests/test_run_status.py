"""Where a run stands, from its log."""

from pathlib import Path
from typing import Any

import pytest

from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.run_folder import RunFolder
from fedkim_ray.run_status import current_round, read_status

STARTED = {"event": "round_started", "round": 1, "clients": ["a", "b", "c"]}
FINISHED = {"event": "client_finished", "round": 1, "client": "a", "metrics": {}}
FAILED = {
    "event": "client_failed",
    "round": 1,
    "client": "b",
    "cause": "DataError",
    "message": "Row 3.",
}
REPORT = {
    "round_index": 0,
    "seconds": 2.0,
    "clients": [{"metrics": {"train/loss": 0.5}}, {"metrics": {"train/loss": 0.7}}],
    "num_sampled": 3,
    "failures": [],
    "bytes_up": 10,
    "bytes_down": 20,
    "kept_groups": ["encoders.image"],
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of the tiny recipe that has only begun."""
    return RunFolder.create(str(tmp_path / "run"), load_recipe("tiny"))


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], None),
        ([STARTED], ([], {}, ["a", "b", "c"])),
        ([STARTED, FINISHED, FAILED], (["a"], {"b": "DataError"}, ["c"])),
        (
            [STARTED, FINISHED, FAILED, {"event": "round_retried", "clients": ["b", "c"]}],
            (["a"], {}, ["b", "c"]),
        ),
        ([STARTED, FINISHED, {"event": "round_finished"}], None),
        ([STARTED, FINISHED, {"event": "run_started"}], None),  # it was killed and resumed
    ],
)
def test_who_is_waited_for(events: list[dict[str, Any]], expected: Any) -> None:
    now = current_round(events)
    came = now and (now["finished"], now["failed"], now["waiting"])
    assert came == expected


def test_a_status_tells_rounds_failures_and_scores(run: RunFolder) -> None:
    assert read_status(run)["phase"] == "not started"
    run.log({"event": "run_started"})
    run.log({"event": "round_finished", "round": 0, "report": REPORT})
    run.log(
        {
            "event": "scored",
            "round": 0,
            "before": {"covid19": {"auroc": 0.8}},
            "after": {"covid19": {"auroc": 0.9}},
        }
    )
    run.log(STARTED)
    run.log(FAILED)
    facts = read_status(run)
    assert facts["phase"] == "clients train"
    assert facts["current_round"]["waiting"] == ["a", "c"]
    assert facts["rounds_told"][0]["loss"] == pytest.approx(0.6)
    assert facts["rounds_told"][0]["kept_groups"] == ["encoders.image"]
    assert facts["failures_by_cause"] == {"DataError": 1}
    assert facts["last_failure"] == {"b": "round 1: DataError: Row 3."}
    assert facts["auroc"] == {0: {"covid19": {"before": 0.8, "after": 0.9}}}
    assert (facts["rounds_done"], facts["bundle"], facts["evaluated"]) == (0, None, False)


def test_a_line_that_a_crash_cut_off_is_no_event(run: RunFolder) -> None:
    run.log(STARTED)
    with Path(run.folder.full("log.jsonl")).open("a") as log:
        log.write('{"event": "client_fin')
    assert read_status(run)["current_round"]["waiting"] == ["a", "b", "c"]
    run.log(FAILED)  # once the run goes on
    assert read_status(run)["current_round"]["waiting"] == ["a", "c"]
