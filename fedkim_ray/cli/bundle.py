"""``fedkim bundle``: look at and verify bundles."""

import typer

from fedkim_ray.cli.options import AsJson, BundleUrl

app = typer.Typer(help="Look at and verify bundles.", no_args_is_help=True)


@app.command()
def verify(bundle: BundleUrl, as_json: AsJson = False) -> None:
    """Hold every file of a bundle against its manifest; print what it is."""
    from fedkim_ray.bundle.read import read_facts
    from fedkim_ray.storage import Folder

    facts = read_facts(Folder.at(bundle))
    if as_json:
        typer.echo(facts.model_dump_json())
    else:
        typer.echo(
            f"whole: {facts.name} ({facts.variant}) version {facts.version}, base "
            f"{facts.base.name}, {facts.rounds} rounds, {facts.steps} steps"
        )


@app.command()
def card(bundle: BundleUrl) -> None:
    """Print a bundle's model card."""
    from fedkim_ray.bundle.layout import CARD
    from fedkim_ray.bundle.read import read_facts
    from fedkim_ray.storage import Folder

    read_facts(Folder.at(bundle))
    typer.echo(Folder.at(bundle).read_bytes(CARD).decode())
