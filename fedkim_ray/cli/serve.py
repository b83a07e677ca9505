"""``fedkim serve``: a bundle as an HTTP endpoint on Ray Serve."""

from typing import Annotated, Any

import typer
from rich.console import Console

from fedkim_ray.cli.options import BundleUrl


def serve(
    bundle: BundleUrl,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    samples: Annotated[
        str | None, typer.Option(help="Data root whose test rows the page offers as samples.")
    ] = None,
    api_keys_file: Annotated[
        str | None, typer.Option(help="Names and hashes of API keys; see `python -m serve.auth`.")
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask nobody for a key; on loopback alone.")
    ] = False,
    rate_limit: Annotated[
        str | None, typer.Option(help="Questions that one key may ask, such as 60/minute.")
    ] = None,
    audit_log: Annotated[
        str | None, typer.Option(help="Folder for a line on every question: who, when, which task.")
    ] = None,
    image_host: Annotated[
        list[str] | None,
        typer.Option(help="Host that images may be fetched from over https; none by default."),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="transformers, vllm, or auto: vLLM where it and a GPU are there.")
    ] = "auto",
    gpus: Annotated[float, typer.Option(help="GPUs of each replica of the model.", min=0)] = 0.0,
    max_replicas: Annotated[
        int, typer.Option(help="Replicas of the model that load may start.", min=1)
    ] = 1,
    threads: Annotated[int, typer.Option(help="torch threads of the engine.", min=1)] = 1,
    decode_in_api: Annotated[
        bool,
        typer.Option(
            "--decode-in-api",
            help="Decode and encode in the HTTP app's own processes: sooner, but less apart.",
        ),
    ] = False,
    on: Annotated[
        list[str] | None,
        typer.Option(help="Ray node label, NAME=VALUE, of nodes that replicas may run on."),
    ] = None,
) -> None:
    """Serve a bundle until Ctrl-C: OpenAI-style chat, task predictions, a playground at /."""
    from serve.server import run_server

    apart: dict[str, Any] = {"inputs_scaling": None} if decode_in_api else {}
    labels = [label.partition("=") for label in on or ()]
    console = Console(stderr=True)
    with run_server(
        bundle,
        host=host,
        port=port,
        samples=samples,
        api_keys_file=api_keys_file,
        no_auth=no_auth,
        rate_limit=rate_limit,
        audit_log=audit_log,
        engine_scaling={"max_replicas": max_replicas, "target_ongoing_requests": 8},
        engine=engine,
        engine_gpus=gpus,
        engine_threads=threads,
        replica_selector={name: value for name, _, value in labels},
        limits={"image_hosts": image_host or ()},
        **apart,
    ) as server:
        console.print(f"Serving at {server.url} (playground at /, API at /docs). Ctrl-C ends it.")
        server.wait()
