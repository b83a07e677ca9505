"""``fedkim doctor``: whether this machine, this cluster and this recipe fit one another."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedkim_ray.cli.options import AsJson, Overrides

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    recipe: Annotated[
        str | None, typer.Argument(help="Examine for this recipe; without one, Ray and machine.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder that the run would write.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Look for what would stop or spoil a run. Exit code 1 where a run that began now would fail.

    Looks at the cluster in RAY_ADDRESS, or starts a local Ray for the look.
    """
    from fedkim_ray.ray_auth import send_token_if_there_is_one
    from fedkim_ray.recipe_files import load_recipe

    send_token_if_there_is_one()  # before Ray is imported
    loaded = load_recipe(recipe, overrides or []) if recipe else None
    from fedkim_ray.doctor.findings import exit_code, worst_first
    from fedkim_ray.doctor.ray_examination import examine
    from fedkim_ray.storage import Folder

    run_url = Folder.at(out).url if out else None  # other processes work in other folders
    findings = worst_first(examine(loaded, run_url))
    if as_json:
        typer.echo(json.dumps([finding.model_dump() for finding in findings]))
    else:
        table = Table("", "check", "where", "found", "to do")
        for f in findings:
            mark = f"[{COLOURS[f.level]}]{f.level}[/]"
            table.add_row(mark, f.check, escape(f.where), escape(f.came), escape(f.remedy))
        Console().print(table)
    raise typer.Exit(exit_code(findings))
