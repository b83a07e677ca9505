"""``fedkim serve``: a bundle as an HTTP endpoint on Ray Serve."""

from typing import Annotated

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
        str | None, typer.Option(help="Hashed API keys; needed for any address but loopback.")
    ] = None,
    threads: Annotated[int, typer.Option(help="torch threads of the engine.", min=1)] = 1,
) -> None:
    """Serve a bundle until Ctrl-C: OpenAI-style chat, task predictions, a playground at /."""
    from serve.server import run_server

    console = Console(stderr=True)
    with run_server(
        bundle,
        host=host,
        port=port,
        samples=samples,
        api_keys_file=api_keys_file,
        engine_threads=threads,
    ) as server:
        console.print(f"Serving at {server.url} (playground at /, API at /docs). Ctrl-C ends it.")
        server.wait()
