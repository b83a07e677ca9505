"""What a study found: every arm's metrics, and the runs behind them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fedkim_ray.evaluation.arms import ArmAnswers, ArmResult, compare_arms
from fedkim_ray.evaluation.bootstrap import Estimate
from fedkim_ray.evaluation.metrics import HEADLINE
from fedkim_ray.evaluation.results import EvaluationReport, Standing
from fedkim_ray.evaluation.subgroups import few_subjects
from fedkim_ray.run_folder import RunFolder
from fedkim_ray.run_status import read_log
from fedkim_ray.storage import Folder
from fedkim_ray.study.plan import PlannedRun
from fedkim_ray.study.run import SHARED
from fedkim_ray.types import Frozen, Task, TaskId

COMPARISON = "comparison.json"


class RunFacts(Frozen):
    """One run of a study."""

    variant: str
    seed: int
    version: str
    """The bundle's."""
    steps: int
    """Injection steps over all rounds."""
    training_s: float | None
    """Over all starts of the run; None where its log does not say."""
    evaluation_s: float
    shared_first_round: bool
    """Whether the clients' first round was copied from another run."""


class StudyReport(Frozen):
    """``comparison.json``."""

    format_version: Literal[1] = 1
    name: str
    """The recipe's."""
    base: str
    data_name: str
    data_root: str
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    variants: tuple[str, ...]
    references: tuple[str, ...]
    bootstrap_samples: int
    subset_note: str
    data_kinds: dict[TaskId, str]
    results: tuple[ArmResult, ...]
    runs: tuple[RunFacts, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        """Variants, then references; all are held against the first."""
        return (*self.variants, *self.references)

    @property
    def headlines(self) -> tuple[ArmResult, ...]:
        """The one metric that stands for each task."""
        return tuple(r for r in self.results if r.metric in HEADLINE.values())

    def tasks(self, standing: Standing) -> list[TaskId]:
        """Return the tasks of a standing, in order."""
        return list(dict.fromkeys(r.task for r in self.results if r.standing == standing))

    def headline(self, arm: str, task: TaskId) -> ArmResult | None:
        """Return an arm's headline metric on a task; None where it was not asked."""
        return next((r for r in self.headlines if (r.arm, r.task) == (arm, task)), None)

    @property
    def few_subjects(self) -> str:
        """Which tasks have too few subjects for a verdict, as a sentence; empty where none has."""
        return few_subjects({r.task: r.num_subjects for r in self.results})

    @property
    def interval_note(self) -> str:
        """What the intervals cover, as a sentence."""
        draws = f"{self.bootstrap_samples} bootstrap draws"
        if len(self.seeds) > 1:
            over = f"{len(self.seeds)} training seeds (Student's t) and the test subjects ({draws})"
            return f"95 % intervals over {over}."
        over = f"test subjects alone ({draws}), and say nothing of another training run"
        return f"95 % intervals over {over}."


def study_report(
    runs: Sequence[PlannedRun],
    references: Mapping[str, ArmAnswers],
    tasks: Mapping[TaskId, Task],
    overrides: Sequence[str] = (),
) -> StudyReport:
    """Compare all arms of a finished study.

    Args:
        runs: Evaluated runs.
        references: Answers of models that are no run, by name and training seed.
        tasks: All tasks, by id.
        overrides: What was set for all runs.

    Raises:
        DataError: two arms answered different questions.
    """
    reports = [run.report() for run in runs]
    first, recipe = reports[0], runs[0].recipe
    arms: dict[str, ArmAnswers] = {}
    for run, report in zip(runs, reports, strict=True):
        assert report.answers is not None  # read_report always has them
        arms[run.variant] = {**arms.get(run.variant, {}), run.seed: report.answers}
    draws = recipe.evaluation.bootstrap_samples
    return StudyReport(
        name=recipe.name,
        base=first.base,
        data_name=first.data_name,
        data_root=first.data_root,
        overrides=tuple(overrides),
        seeds=tuple(dict.fromkeys(run.seed for run in runs)),
        variants=tuple(arms),
        references=tuple(references),
        bootstrap_samples=draws,
        subset_note=first.subset_note,
        data_kinds={t.task: t.data_kind for t in first.tasks},
        results=tuple(
            compare_arms({**arms, **references}, tasks, draws, trained=recipe.data.tasks)
        ),
        runs=tuple(_facts(run, r) for run, r in zip(runs, reports, strict=True)),
    )


def write_study(report: StudyReport, folder: Folder) -> None:
    """Write ``comparison.json``."""
    folder.write_json(COMPARISON, report.model_dump(mode="json"))


def signed(e: Estimate | None) -> str:
    """Return a difference with its sign and interval; a dash where there is none."""
    return "-" if e is None else e.signed()


def _facts(run: PlannedRun, report: EvaluationReport) -> RunFacts:
    events = read_log(RunFolder.open(run.folder.url))
    return RunFacts(
        variant=run.variant,
        seed=run.seed,
        version=report.version,
        steps=run.recipe.federation.rounds * run.recipe.injection.steps_per_round,
        training_s=training_seconds(events),
        evaluation_s=report.seconds,
        shared_first_round=any(e["event"] == SHARED for e in events),
    )


def training_seconds(events: Sequence[Mapping[str, Any]]) -> float | None:
    """Return how long a run was driven, each start until the last that was heard of it.

    Args:
        events: The run's log.

    Returns:
        Seconds; None where the run has not ended.
    """
    driven = [e for e in events if e["event"] != SHARED]  # that comes before a start
    starts = [place for place, e in enumerate(driven) if e["event"] == "run_started"]
    if not starts or not any(e["event"] == "bundle" for e in driven):
        return None
    ends = [place - 1 for place in (*starts[1:], len(driven))]
    return float(
        sum(driven[b]["time"] - driven[a]["time"] for a, b in zip(starts, ends, strict=True))
    )
