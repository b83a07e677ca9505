"""``fedkim run`` and ``recipes``."""

import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedkim_ray.cli.options import AsJson, Overrides, Variant, refuse_another_recipe

if TYPE_CHECKING:
    from fedkim_ray.config import Recipe
    from fedkim_ray.run_folder import RunFolder


def run(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A packaged recipe (see `fedkim recipes`) or a YAML file."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder of the run, any fsspec URL. Default: runs/<recipe>-<variant>."),
    ] = None,
    overrides: Overrides = None,
    variant: Variant = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, or start it there.")
    ] = False,
    score: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Score the bundle on the test data.")
    ] = True,
    events: Annotated[
        bool, typer.Option("--events", help="Print events as JSON lines instead of bars.")
    ] = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Tell what a run would do, and do nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a federation, inject it into the language model, and write a bundle.

    Example: fedkim run tiny --out runs/tiny --set federation.rounds=3

    A run that was killed goes on with: fedkim run --resume --out runs/tiny
    """
    console = Console(stderr=True)
    if dry:
        from fedkim_ray.cli.dry_run import dry_run

        dry_run(_load(recipe, out, overrides or [], variant), as_json)
        return
    folder = _open_run(recipe, out, overrides or [], variant, resume, score)

    # After the recipe was read: a misspelt one is refused without loading the libraries.
    from fedkim_ray.cli.evaluate import evaluate_run
    from fedkim_ray.cli.progress import RunProgress, print_event
    from fedkim_ray.pipeline import run_recipe

    with nullcontext(print_event) if events else RunProgress(console) as progress:
        facts = run_recipe(folder, progress)
    result = {"run": folder.folder.url, "bundle": folder.bundle.url, "version": facts.version}
    if score:
        result["report"] = evaluate_run(folder, console)
    if as_json:
        typer.echo(json.dumps(result))


def _open_run(
    recipe: str | None,
    out: str | None,
    overrides: list[str],
    variant: str | None,
    resume: bool,
    score: bool,
) -> "RunFolder":
    from fedkim_ray.errors import RecipeError
    from fedkim_ray.recipe_files import load_recipe
    from fedkim_ray.run_folder import RunFolder

    if recipe is None and resume and out:
        refuse_another_recipe(overrides, variant)
        return RunFolder.open(out)
    if recipe is None:
        raise RecipeError(
            "No recipe was named.",
            "`fedkim run RECIPE` starts a run; `fedkim run --resume --out DIR` goes on with one.",
            "See `fedkim recipes` for the packaged ones.",
        )
    loaded = load_recipe(recipe, overrides, variant or "fedkim")
    url = out or f"runs/{loaded.name}-{loaded.variant}"
    if resume and RunFolder.is_at(url):
        return RunFolder.open(url, loaded)
    from fedkim_ray.evaluation.subset import require_question_each
    from fedkim_ray.pipeline import plan_run

    plan = plan_run(loaded)  # refuse before anything is written
    if score:
        require_question_each(plan.with_questions, loaded.evaluation.max_questions)
    return RunFolder.create(url, loaded, plan.card.fingerprints)


def _load(
    recipe: str | None, out: str | None, overrides: list[str], variant: str | None
) -> "Recipe":
    """Return the named recipe, or that of the run in ``out``."""
    from fedkim_ray.recipe_files import load_recipe
    from fedkim_ray.run_folder import RunFolder

    if recipe is None:
        refuse_another_recipe(overrides, variant)
        return RunFolder.open(out or "").recipe
    return load_recipe(recipe, overrides, variant or "fedkim")


def recipes(as_json: AsJson = False) -> None:
    """List the packaged recipes and the variants of the method."""
    from fedkim_ray.config import VARIANTS
    from fedkim_ray.recipe_files import packaged_recipes

    if as_json:
        typer.echo(json.dumps({"recipes": packaged_recipes(), "variants": [*VARIANTS]}))
        return
    typer.echo("recipes:  " + ", ".join(packaged_recipes()))
    typer.echo("variants: " + ", ".join(VARIANTS))
