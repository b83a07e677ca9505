"""``fedkim compare A B`` and ``fedkim compare study``."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from typer.core import TyperGroup

from fedkim_ray.cli.options import AsJson, Overrides

if TYPE_CHECKING:
    from fedkim_ray.storage import Folder
    from fedkim_ray.study.plan import PlannedRun
    from fedkim_ray.study.results import StudyReport

PAIR = "pair"


class _PairByDefault(TyperGroup):
    """Takes ``compare A B`` for ``compare pair A B``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Name the command where the first argument names none; ``./study`` is a folder."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [PAIR, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_PairByDefault,
    no_args_is_help=True,
    help="Compare two evaluations (`fedkim compare A B`), or variants of a recipe (`study`).",
)


@app.command(PAIR)
def pair(
    a: Annotated[str, typer.Argument(help="Folder of an evaluation (with answers.parquet).")],
    b: Annotated[str, typer.Argument(help="Folder of another evaluation of the same data.")],
    as_json: AsJson = False,
) -> None:
    """Compare two evaluations question by question: paired 95 % intervals, a minus b."""
    from fedkim_ray.evaluation.compare import compare, difference_rows, print_differences
    from fedkim_ray.evaluation.results import read_report
    from fedkim_ray.storage import Folder

    reports = [read_report(Folder.at(url)) for url in (a, b)]
    first, second = (r.answers for r in reports)
    assert first is not None
    assert second is not None
    differences = compare(first, second)
    if as_json:
        typer.echo(json.dumps(difference_rows(differences)))
    else:
        print_differences(differences, reports[0].variant, reports[1].variant, Console())


@app.command()
def study(
    recipe: Annotated[
        str, typer.Argument(help="A packaged recipe (see `fedkim recipes`) or a YAML file.")
    ] = "study",
    variants: Annotated[
        str | None,
        typer.Option(help="Comma separated; all are held against the first. Default: every one."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Training seeds 0, 1, ... for each.", min=1)] = 1,
    out: Annotated[
        str | None,
        typer.Option(help="Folder of the study, any fsspec URL. Default: runs/<recipe>-study."),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks to ask, comma separated. Default: all.")
    ] = None,
    references: Annotated[
        str,
        typer.Option(help="Supervised references beside the variants, comma separated; or `none`."),
    ] = "logistic_regression,heads,clients,public,centralised",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train and evaluate variants of a recipe, and compare them over seeds and subjects.

    It asks as many test questions as the recipe says; --set evaluation.max_questions=null asks all.
    Each run lies in the study's folder as `fedkim run` leaves it; the same command goes on with a
    study that was killed, and takes in further variants and seeds.

    Example: fedkim compare study demo --variants fedkim,public_only --out runs/compare
    """
    from fedkim_ray.config import VARIANTS
    from fedkim_ray.recipe_files import load_recipe
    from fedkim_ray.storage import Folder
    from fedkim_ray.study.plan import plan_study
    from fedkim_ray.study.references import known_references

    console, sets = Console(stderr=True), overrides or []
    names = variants.split(",") if variants else [*VARIANTS]
    url = out or f"runs/{load_recipe(recipe, sets).name}-study"
    asked, beside = tasks.split(",") if tasks else None, known_references(references)
    runs, folder = plan_study(url, recipe, names, range(seeds), sets, asked), Folder.at(url)
    _run_all(runs, console)
    report = _compared(folder, runs, beside, sets, console)
    _write_and_tell(report, folder, as_json)


def _run_all(runs: "list[PlannedRun]", console: Console) -> None:
    """Run what is not finished, with the progress of ordinary runs."""
    from fedkim_ray.cli.evaluate import evaluate_run
    from fedkim_ray.cli.progress import RunProgress
    from fedkim_ray.study.run import run_study

    def tell(number: int, run: "PlannedRun") -> None:
        what = f"{run.variant}, seed {run.seed}"
        console.print(f"[bold]Run {number + 1} of {len(runs)}: {what}[/bold]")

    run_study(
        runs,
        on_run=tell,
        watch=lambda: RunProgress(console),
        score=lambda run, tasks: evaluate_run(run, console, tasks),
    )


def _compared(
    folder: "Folder",
    runs: "list[PlannedRun]",
    references: list[str],
    overrides: list[str],
    console: Console,
) -> "StudyReport":
    """Hold the finished runs and the references against the first variant."""
    from fedkim_ray.pipeline import plan_run
    from fedkim_ray.study.references import reference_answers
    from fedkim_ray.study.results import study_report

    def tell(name: str, seed: int) -> None:
        console.print(f"Reference {name}, seed {seed}")

    answers = reference_answers(folder, runs, references, tell)
    return study_report(runs, answers, plan_run(runs[0].recipe).tasks, overrides)


def _write_and_tell(report: "StudyReport", folder: "Folder", as_json: bool) -> None:
    """Write the study's files; print its tables and page's URL, or its JSON."""
    from fedkim_ray.study.page import write_pages
    from fedkim_ray.study.results import write_study
    from fedkim_ray.study.tables import print_study

    write_study(report, folder)
    page = write_pages(report, folder)
    if as_json:
        typer.echo(report.model_dump_json())
    else:
        print_study(report, Console())
        typer.echo(page)
