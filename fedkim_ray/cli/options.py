"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one value: a.b=value. May be repeated.", metavar="A.B=V"),
]
Variant = Annotated[
    str, typer.Option(help="Which of the paper's variants to run: see docs/method.md.")
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
