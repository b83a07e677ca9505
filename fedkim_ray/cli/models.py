"""``fedkim models``: base models that this machine can inject into."""

import json
from typing import Annotated

import typer

from fedkim_ray.cli.options import AsJson

app = typer.Typer(help="Find and fetch base models.", no_args_is_help=True)


@app.command()
def fetch(
    name: Annotated[
        str, typer.Argument(help="smollm2-135m, tiny-random, a local folder or a hub id.")
    ],
    revision: Annotated[str | None, typer.Option(help="Commit or tag on the hub.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a base model into the cache once, and print its folder and fingerprint."""
    from fedkim_ray.injection.base_model import find_base, fingerprint

    folder = find_base(name, revision)
    facts = {"name": name, "folder": str(folder), "fingerprint": fingerprint(folder)}
    typer.echo(json.dumps(facts) if as_json else f"{facts['folder']}  {facts['fingerprint']}")
