"""``fedkim data``: make, look at and check data roots."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedkim_ray.cli.data_import import import_
from fedkim_ray.cli.options import AsJson, require_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedkim_ray.data.description.survey import PlaceFacts
    from fedkim_ray.data.root import DatasetCard
    from fedkim_ray.storage import Folder

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
    """Write the demo's root: real patients (SUPPORT2, CLIF demo), synthetic X-rays and ECGs."""
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
def join(
    urls: Annotated[
        list[str],
        typer.Argument(
            help="Data roots, one a hospital; or of each what it hands out: dataset.json, "
            "imports/NAME/import.json, public/ and test/.",
            metavar="ROOT",
        ),
    ],
    dst: Annotated[str, typer.Option(help="The joint data root, any fsspec URL.")],
    as_json: AsJson = False,
) -> None:
    """Join roots that hospitals imported apart; private files stay with them and are not needed.

    Example: fedkim data join north-card south-card --dst root

    Each hospital then lays its clients/SITE beside the joint dataset.json on its own node.
    """
    from fedkim_ray.cli.progress import new_progress
    from fedkim_ray.data.joining import join_roots

    with new_progress(Console(stderr=True)) as progress:
        bar = progress.add_task("joining", total=None, note="")
        result = join_roots(
            urls,
            dst,
            lambda done, total, note: progress.update(
                bar, completed=done, total=total or None, note=note
            ),
        )
    card = result.card
    if as_json:
        told = json.loads(card.model_dump_json())
        typer.echo(json.dumps({**told, "unchanged": result.unchanged}))
        return
    private, public, test = (card.num_examples(f"{p}/") for p in ("clients", "public", "test"))
    state = ", as it was" if result.unchanged else ""
    typer.echo(f"{card.name} at {dst}{state}: {public} public and {test} test examples")
    typer.echo(f"Private, and not copied: {private} examples of {', '.join(card.clients)}")
    typer.echo(f"Next: fedkim data check {dst} --here")


@app.command()
def tasks(as_json: AsJson = False) -> None:
    """List the built-in tasks; a recipe or a mapping adds tasks of its own."""
    from fedkim_ray.data.tasks import METRICS, TASKS

    if as_json:
        told = [
            {**task.model_dump(mode="json"), "metrics": task.metrics or METRICS[task.kind]}
            for task in TASKS
        ]
        typer.echo(json.dumps(told))
        return
    table = Table("task", "role", "modalities", "kind", "question")
    for task in TASKS:
        modalities = ", ".join(task.modalities)
        table.add_row(task.id, task.role, modalities, task.kind, task.question)
    Console().print(table)


@app.command()
def describe(
    url: RootUrl,
    page: Annotated[
        Path | None, typer.Option(help="File of the page. Default: description.html in the root.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count examples, labels and missing values, and draw examples on an HTML page."""
    from fedkim_ray.data.description.page import description_page
    from fedkim_ray.data.description.survey import survey
    from fedkim_ray.data.root import part_here, read_card
    from fedkim_ray.storage import Folder

    require_place(page, "--page")
    root = Folder.at(url)
    card = read_card(root)
    here, away = part_here(root, card)
    places = survey(root, here)
    written = _write_page(root, description_page(root, here, places, away), page)
    if as_json:
        told = {"places": [p.as_json() for p in places], "not_here": away}
        typer.echo(json.dumps({**json.loads(card.model_dump_json()), **told}))
        return
    console = Console()
    console.print(_place_table(card, places, f"{card.name} at {url}"))
    for source in card.sources:
        console.print(f"{source.name}: {source.kind}, {source.licence}", highlight=False)
    if away:
        console.print(f"[yellow]Not here, and not counted: {len(away)} files: {away[0]}, ...[/]")
    console.print(f"Page: {written}", highlight=False)


def _place_table(card: "DatasetCard", places: "Sequence[PlaceFacts]", title: str) -> Table:
    columns = ("place", "task", "examples", "subjects", "yes", "data")
    table = Table(*columns, title=title)
    for place in places:
        yes = "-" if place.num_yes is None else f"{place.num_yes / max(place.num_examples, 1):.0%}"
        counts = (str(place.num_examples), str(place.num_subjects), yes)
        table.add_row(place.name, place.task, *counts, card.kind_of(place.task))
    return table


def _write_page(root: "Folder", html: str, page: Path | None) -> str:
    if page is None:
        root.write_bytes("description.html", html.encode())
        return root.full("description.html")
    page.write_text(html)
    return str(page)


@app.command()
def check(
    url: RootUrl,
    images: Annotated[
        bool, typer.Option("--images", help="Decode every image, which takes longer.")
    ] = False,
    here: Annotated[
        bool,
        typer.Option(
            "--here",
            help="Leave out clients/SITE, public or test where none of its files is here; one that "
            "is here in part is still wrong.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify hashes, schema and that no subject is in two places; exit code 0 or 1.

    Example, on a machine that holds a part of a root: fedkim data check root --here
    """
    from fedkim_ray.data.checking import check_root
    from fedkim_ray.data.root import place_of_file, places_here, read_card
    from fedkim_ray.storage import Folder

    root = Folder.at(url)
    card, away = read_card(root), list[str]()
    if here:
        card, away = places_here(root, card)
    problems = check_root(root, images, card)
    if as_json:
        typer.echo(json.dumps({"problems": problems, "not_here": away}))
    else:
        typer.echo("\n".join(problems) or "whole: hashes, schema and subjects are as promised")
        if away:
            places = ", ".join(sorted({place_of_file(name) for name in away}))
            typer.echo(f"Not here, and not checked: {len(away)} files of {places}")
    if problems:
        raise typer.Exit(1)
