"""The ``fedkim`` command: thin shells over the library, one file a group of commands.

Heavy imports happen inside the commands, so that ``--help`` answers at once.
"""

import logging
import os
import sys
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from fedkim_ray.cli import (
    bundle,
    compare,
    data,
    demo,
    doctor,
    evaluate,
    finetune,
    models,
    run,
    serve,
    status,
    submit,
)

INTERRUPTED = 130


class _Interruptible(TyperGroup):
    """Says what Ctrl-C left; typer itself would end without a word."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            Console(stderr=True).print("Interrupted. What was published is kept; see --resume.")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="fedkim",
    cls=_Interruptible,
    help="Federated knowledge injection into medical foundation models, on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("status")(status.status)
app.command("abort")(status.abort)
app.command("recipes")(run.recipes)
app.command("submit")(submit.submit)
app.command("doctor")(doctor.doctor)
app.add_typer(submit.app, name="job")
app.command("evaluate")(evaluate.evaluate)
app.command("report")(evaluate.report)
app.command("finetune")(finetune.finetune)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.add_typer(compare.app, name="compare")
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.add_typer(bundle.app, name="bundle")


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks of expected errors."),
) -> None:
    """Remember options that hold for every command."""
    os.environ["FEDKIM_DEBUG"] = "1" if debug else ""


def main() -> None:
    """Run the command line; an expected error becomes one message and its exit code."""
    _quiet_libraries()
    from fedkim_ray.errors import FedKimError

    try:
        app(standalone_mode=True)
    except FedKimError as error:
        if os.environ.get("FEDKIM_DEBUG"):
            raise
        # Soft: a path that is broken over two lines can be neither copied nor searched for.
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"[bold red]Error:[/] {_escape(str(error))}")
        sys.exit(error.exit_code)


def _quiet_libraries() -> None:
    """Keep third parties' banners and bars off the terminal; ours replace them."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # DeepSpeed, which transformers imports, warns where there is no GPU; it sets its level itself.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
    if not sys.stdout.isatty():  # a table in a log or a pipe is not squeezed into 80 columns
        os.environ.setdefault("COLUMNS", "120")


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
