"""Runs that were scored, written by hand."""

from collections.abc import Callable

import pytest

from fedkim_ray.evaluation.results import EvaluationReport, TaskResult, write_report
from fedkim_ray.study.plan import PlannedRun
from fedkim_ray.types import TaskId


@pytest.fixture
def score() -> Callable[..., None]:
    """Write the report of a run (run, *tasks) that was asked these tasks."""
    return _score


def _score(run: PlannedRun, *tasks: TaskId) -> None:
    report = EvaluationReport(
        name="tiny",
        version="abc",
        variant=run.variant,
        base="tiny-random",
        data_name="tiny",
        data_root="data",
        read="likelihood",
        subset_note="",
        bootstrap_samples=10,
        tasks=tuple(map(_result, tasks)),
        scoring_seconds=1.0,
        seconds=2.0,
    )
    write_report(report, run.folder / "evaluation")


def _result(task: TaskId) -> TaskResult:
    return TaskResult(
        task=task,
        role="train",
        kind="yes_no",
        modalities=("lab",),
        data_kind="synthetic",
        reading="likelihood",
        num_questions=2,
        num_available=2,
        num_subjects=2,
        num_yes=1,
        metrics={},
    )
