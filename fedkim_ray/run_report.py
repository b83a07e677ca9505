"""The report of a finished run: its bundle scored on the test data of its own recipe."""

from collections.abc import Sequence

from fedkim_ray.bundle.layout import Interval, Scores, TaskScore
from fedkim_ray.bundle.read import load_bundle
from fedkim_ray.bundle.write import add_scores
from fedkim_ray.evaluation.evaluate import evaluate_bundle
from fedkim_ray.evaluation.report import NAMES, html_report, write_html
from fedkim_ray.evaluation.results import EvaluationReport, write_report
from fedkim_ray.evaluation.scoring import OnProgress
from fedkim_ray.run_folder import RunFolder
from fedkim_ray.storage import Folder
from fedkim_ray.types import TaskId


def score_run(
    run: RunFolder,
    tasks: Sequence[TaskId] | None = None,
    on_progress: OnProgress | None = None,
) -> EvaluationReport:
    """Score a finished run's bundle, write report and page into the run, and return the report.

    The scores enter the bundle's model card too.

    Args:
        run: The run.
        tasks: Tasks to ask; all that its data root has test data of where None.
        on_progress: Called after each batch.

    Raises:
        StorageError: the run has no whole bundle.
        DataError: the test data are absent, or of another specification.
    """
    recipe = run.recipe
    bundle = load_bundle(run.bundle.url)
    root = Folder.at(recipe.data.root)
    report = evaluate_bundle(
        bundle,
        root,
        recipe.evaluation,
        tasks,
        on_progress=on_progress,
        keep_in=run.evaluation,
    )
    rounds = range(recipe.federation.rounds)
    page = html_report(
        report,
        training_logs=[run.injected(r).read_json("log.json") for r in rounds],
        rounds=[run.aggregated(r).read_json("report.json") for r in rounds]
        if recipe.federation.clients_train
        else [],
    )
    write_html(run.evaluation, page)
    add_scores(run.bundle, scores_of(report))
    write_report(report, run.evaluation)  # last: the report says that all is there
    return report


def scores_of(report: EvaluationReport) -> Scores:
    """Return what the model card tells of an evaluation."""
    return Scores(
        data_name=report.data_name,
        reading=report.read,
        subset_note=report.subset_note,
        tasks=tuple(
            TaskScore(
                task=t.task,
                role=t.role,
                data_kind=t.data_kind,
                num_questions=t.num_questions,
                metrics={
                    NAMES[m]: Interval(value=e.value, low=e.low, high=e.high)
                    for m in t.shown
                    if (e := t.metrics.get(m)) is not None
                },
            )
            for t in report.tasks
        ),
    )
