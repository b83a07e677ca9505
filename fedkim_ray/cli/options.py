"""Options that several commands share."""

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
