"""``fedkim bundle``: look at and verify bundles, compile them for other engines."""

from typing import Annotated, Literal

import typer

from fedkim_ray.cli.options import AsJson, BundleUrl

app = typer.Typer(help="Verify bundles, and compile them for other engines.", no_args_is_help=True)

TaskOption = Annotated[str, typer.Option(help="A task of the bundle, trained or unseen.")]
ModalitiesOption = Annotated[
    str, typer.Option(help="What requests will carry, e.g. image or lab,vital.", metavar="M[,M]")
]
OutOption = Annotated[str, typer.Option(help="Where to write, any fsspec URL.")]
TopKOption = Annotated[
    int | None, typer.Option(min=1, help="Keep the K largest experts; all where left out.")
]


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


@app.command()
def fold(
    bundle: BundleUrl,
    task: TaskOption,
    modalities: ModalitiesOption,
    out: OutOption,
    top_k: TopKOption = None,
) -> None:
    """Compile the experts for one task and its modalities to an ordinary PEFT LoRA adapter."""
    from fedkim_ray.bundle import fold as folding
    from fedkim_ray.storage import Folder

    folded = folding.fold(bundle, task, modalities.split(","), top_k)
    folding.write_folded(Folder.at(out), folded)
    typer.echo(f"{out}: LoRA of rank {folded.config['r']}, experts {folded.facts['experts']}")


@app.command()
def merge(
    bundle: BundleUrl,
    task: TaskOption,
    modalities: ModalitiesOption,
    out: OutOption,
    top_k: TopKOption = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Precision to store.")
    ] = "float32",
) -> None:
    """Merge the experts for one task and its modalities into full weights of the base model."""
    from fedkim_ray.bundle.fold import fold as fold_bundle
    from fedkim_ray.bundle.merge import write_merged
    from fedkim_ray.bundle.read import read_facts
    from fedkim_ray.storage import Folder

    folded = fold_bundle(bundle, task, modalities.split(","), top_k)
    write_merged(Folder.at(out), folded, read_facts(Folder.at(bundle)), dtype)
    typer.echo(f"{out}: merged model in {dtype}, experts {folded.facts['experts']}")
