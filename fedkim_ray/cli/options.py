"""Options that several commands share."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one value: a.b=value. May be repeated.", metavar="A.B=V"),
]
Variant = Annotated[
    str | None,
    typer.Option(help="Which of the paper's variants to run: see docs/method.md. Default: fedkim."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
BundleUrl = Annotated[str, typer.Argument(help="A bundle's folder, any fsspec URL.")]


def require_place(path: Path | None, option: str) -> None:
    """Refuse a file that cannot be written, before the work that it is to hold the result of.

    Raises:
        DataError: it lies in no folder, is one, or may not be written.
    """
    from fedkim_ray.errors import DataError

    if path is None:
        return
    place = path if path.exists() else path.parent
    if path.is_dir() or not path.parent.is_dir() or not os.access(place, os.W_OK):
        raise DataError(
            f"{str(path)!r} cannot be written.",
            f"{option} names a file in a folder that is there.",
            "Make the folder, or name another file.",
        )


def refuse_another_recipe(
    overrides: Sequence[str], variant: str | None, recipe: str | None = None
) -> None:
    """Refuse what would change the recipe of a run that goes on with its own.

    Raises:
        RecipeError: a recipe, an override or a variant was given.
    """
    sets = [f"--set {override}" for override in overrides]
    given = [recipe, *sets, f"--variant {variant}" if variant else None]
    if named := " ".join(filter(None, given)):
        from fedkim_ray.errors import RecipeError

        raise RecipeError(
            f"A run that is there was given {named!r}.",
            "It keeps the recipe that it began with.",
            "Leave that out, or start another run without --resume in a folder of its own.",
        )
