"""``fedkim evaluate`` and ``report``."""

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from fedkim_ray.cli.options import AsJson, BundleUrl
from fedkim_ray.cli.progress import new_progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from fedkim_ray.bundle.read import LoadedBundle
    from fedkim_ray.config import EvaluationConfig
    from fedkim_ray.evaluation.results import EvaluationReport
    from fedkim_ray.evaluation.scoring import AskBatches, OnProgress
    from fedkim_ray.run_folder import RunFolder
    from fedkim_ray.types import TaskId

DataRoot = Annotated[str, typer.Option(help="Data root with the test data, any fsspec URL.")]
Tasks = Annotated[str | None, typer.Option(help="Tasks to ask, comma separated. Default: all.")]
Reading = Annotated[
    str,
    typer.Option(
        help="How yes/no answers are read: `likelihood` (one forward pass) or `generate`."
    ),
]


def evaluate(
    bundle: BundleUrl,
    data: DataRoot,
    out: Annotated[
        str | None, typer.Option(help="Folder for report.json, answers.parquet, report.html.")
    ] = None,
    tasks: Tasks = None,
    read: Reading = "likelihood",
    max_questions: Annotated[
        int | None, typer.Option(help="Ask a fixed, evenly drawn subset. Default: all.", min=1)
    ] = None,
    base: Annotated[
        bool, typer.Option("--base", help="Ask the bundle's frozen base model, in text, instead.")
    ] = False,
    remove_experts: Annotated[
        bool,
        typer.Option("--remove-experts", help="Ask yes/no tasks again without each expert."),
    ] = False,
    workers: Annotated[
        int, typer.Option(help="Ray workers that share the questions; 1: this process.", min=1)
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Score a bundle on a data root's test data, trained and unseen tasks apart.

    Example: fedkim evaluate runs/demo/run/bundle --data runs/demo/data --out runs/demo/all
    """
    from fedkim_ray.bundle.read import load_bundle, read_facts
    from fedkim_ray.config import EvaluationConfig
    from fedkim_ray.evaluation.baselines import evaluate_base
    from fedkim_ray.evaluation.report import html_report, print_report, write_html
    from fedkim_ray.evaluation.results import write_report
    from fedkim_ray.storage import Folder

    chosen = _reading(read)
    _require_compatible(base, workers, remove_experts, read)
    if out:
        Folder.at(out).require_writable()
    config = EvaluationConfig(max_questions=max_questions)
    names = tasks.split(",") if tasks else None
    if base:
        facts = read_facts(Folder.at(bundle))
        with _asking() as on_progress:
            report = evaluate_base(facts, Folder.at(data), config, names, chosen, on_progress)
    else:
        with _asked_by(workers, bundle, data, names, config, chosen) as ask:
            report = _score(
                load_bundle(bundle), data, config, names, chosen, out, remove_experts, ask
            )
    if out:
        write_html(Folder.at(out), html_report(report))
        write_report(report, Folder.at(out))  # last: it ends what the answers were kept for
    if as_json:
        typer.echo(report.model_dump_json(exclude={"answers"}))
    else:
        print_report(report, Console())


def evaluate_run(
    run: "RunFolder", console: Console, tasks: "Sequence[TaskId] | None" = None
) -> str:
    """Score a finished run's bundle, write its report, and return the page's URL."""
    from fedkim_ray.evaluation.report import PAGE, print_report
    from fedkim_ray.run_report import score_run

    with _asking() as on_progress:
        report = score_run(run, tasks, on_progress)
    print_report(report, console)
    return run.evaluation.full(PAGE)


@contextmanager
def _asking() -> "Iterator[OnProgress]":
    """Show a bar for the length of a block, and give what moves it."""
    with new_progress(Console(stderr=True)) as progress:
        bar = progress.add_task("asking the model", total=None, note="")
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def _reading(read: str) -> Literal["likelihood", "generate"]:
    """Return what ``--read`` says.

    Raises:
        RecipeError: it says something else.
    """
    from fedkim_ray.errors import RecipeError

    if read not in ("likelihood", "generate"):
        raise RecipeError(
            f"--read is {read!r}.", "It is `likelihood` or `generate`.", "Choose one of the two."
        )
    return "generate" if read == "generate" else "likelihood"


def _require_compatible(base: bool, workers: int, remove_experts: bool, read: str) -> None:
    """Refuse options that another leaves without a meaning.

    Raises:
        RecipeError: two options do not go together.
    """
    from fedkim_ray.errors import RecipeError

    given = {
        ("--base", "--workers"): base and workers > 1,
        ("--base", "--remove-experts"): base and remove_experts,
        ("--workers", "--remove-experts"): workers > 1 and remove_experts,
        ("--read generate", "--remove-experts"): read == "generate" and remove_experts,
    }
    if wrong := [" and ".join(pair) for pair, both in given.items() if both]:
        raise RecipeError(
            f"The options {wrong[0]} were given.",
            "The base model has no experts; it, and a model without an expert, are asked in one "
            "process; the change without an expert is one of AUROC, which generated words do not "
            "have.",
            "Leave one of the two out.",
        )


def _asked_by(
    workers: int,
    bundle: str,
    data: str,
    tasks: list[str] | None,
    config: "EvaluationConfig",
    read: Literal["likelihood", "generate"],
) -> "AbstractContextManager[AskBatches | None]":
    """Return who answers: Ray workers for the length of a block, or None for this process."""
    if workers == 1:
        return nullcontext()
    from fedkim_ray.evaluation.ray_evaluate import RayQuestions, ray_workers
    from fedkim_ray.storage import Folder

    asked = RayQuestions(
        bundle_url=Folder.at(bundle).url,
        root_url=Folder.at(data).url,
        tasks=tuple(tasks) if tasks else None,
        max_questions=config.max_questions,
        read=read,
        max_new_tokens=config.max_new_tokens,
    )
    return ray_workers(asked, workers)


def _score(
    bundle: "LoadedBundle",
    data: str,
    config: "EvaluationConfig",
    tasks: list[str] | None = None,
    read: Literal["likelihood", "generate"] = "likelihood",
    out: str | None = None,
    remove_experts: bool = False,
    ask: "AskBatches | None" = None,
) -> "EvaluationReport":
    from fedkim_ray.evaluation.evaluate import evaluate_bundle
    from fedkim_ray.storage import Folder

    with _asking() as on_progress:
        return evaluate_bundle(
            bundle,
            Folder.at(data),
            config,
            tasks,
            read,
            on_progress,
            keep_in=Folder.at(out) if out else None,
            remove_experts=remove_experts,
            ask=ask,
        )


def report(
    run: Annotated[str, typer.Argument(help="Folder of a finished run.")],
) -> None:
    """Score a finished run again and write its report page."""
    from fedkim_ray.run_folder import RunFolder

    page = evaluate_run(RunFolder.open(run), Console(stderr=True))
    typer.echo(page)
