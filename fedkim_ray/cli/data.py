"""``fedkim data``: make, look at and check data roots."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedkim_ray.cli.data_import import import_
from fedkim_ray.cli.options import AsJson

if TYPE_CHECKING:
    from fedkim_ray.data.root import DatasetCard

app = typer.Typer(help="Make, describe and check data roots.", no_args_is_help=True)
app.command("import")(import_)
RootUrl = Annotated[str, typer.Argument(help="A data root, any fsspec URL.")]


@app.command()
def tiny(url: RootUrl, seed: int = 0) -> None:
    """Write a synthetic root of a few hundred tiny examples (recipe `tiny`)."""
    from fedkim_ray.data.demo.tiny import write_tiny_root

    card = write_tiny_root(url, seed)
    typer.echo(f"{card.num_examples('')} synthetic examples of {len(card.files)} files at {url}")


@app.command()
def demo(url: RootUrl, seed: int = 0) -> None:
    """Write the demo's root: real patients (SUPPORT2) and synthetic X-rays and ECGs."""
    card = write_demo(url, seed)
    typer.echo(f"{card.num_examples('')} examples of {len(card.files)} files at {url}")


def write_demo(url: str, seed: int = 0) -> "DatasetCard":
    """Write the demo's root under a progress bar, unless it is there already."""
    from fedkim_ray.cli.progress import new_progress
    from fedkim_ray.data.demo.root import write_demo_root

    with new_progress(Console(stderr=True)) as progress:
        bar = progress.add_task("writing data", total=None, note="")
        return write_demo_root(
            url,
            seed,
            lambda done, total, name: progress.update(bar, completed=done, total=total, note=name),
        )


@app.command()
def describe(url: RootUrl, as_json: AsJson = False) -> None:
    """Show clients, tasks and counts of a data root, from its card alone."""
    from fedkim_ray.data.root import read_card
    from fedkim_ray.storage import Folder

    card = read_card(Folder.at(url))
    if as_json:
        typer.echo(card.model_dump_json())
        return
    table = Table("place", "task", "examples", "data", title=f"{card.name} at {url}")
    places = [f"clients/{c}" for c in card.clients] + ["public", "test"]
    for place in places:
        inside = [f.removeprefix(f"{place}/") for f in card.files if f.startswith(f"{place}/")]
        for task in sorted({name.split("/")[0] for name in inside}):
            count = card.num_examples(f"{place}/{task}/")
            table.add_row(place, task, str(count), card.kind_of(task))
    Console().print(table)


@app.command()
def check(url: RootUrl, as_json: AsJson = False) -> None:
    """Verify hashes, schema and that no subject is in two places; exit code 0 or 1."""
    from fedkim_ray.data.root import check_root
    from fedkim_ray.storage import Folder

    problems = check_root(Folder.at(url))
    if as_json:
        typer.echo(json.dumps({"problems": problems}))
    else:
        typer.echo("\n".join(problems) or "whole: hashes, schema and subjects are as promised")
    if problems:
        raise typer.Exit(1)
