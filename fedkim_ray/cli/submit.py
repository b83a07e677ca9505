"""``fedkim submit`` and ``fedkim job``: runs on a cluster whose head this machine reaches."""

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedkim_ray.cli.options import AsJson, Overrides, Variant, refuse_another_recipe

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from fedkim_ray.ray_jobs import JobFacts

INTERRUPTED = 130

app = typer.Typer(help="Look at, stop and go on with submitted runs.", no_args_is_help=True)
Address = Annotated[
    str | None,
    typer.Option(help="The head's dashboard, http://HOST:8265.", envvar="RAY_ADDRESS"),
]
Submission = Annotated[
    str, typer.Argument(help="A submission's id, as `fedkim submit` gave it, or `last`.")
]
Wait = Annotated[
    bool,
    typer.Option("--wait/--no-wait", help="Show progress; end with the run's own exit code."),
]
Score = Annotated[
    bool, typer.Option("--evaluate/--no-evaluate", help="Score the bundle on the test data.")
]


def submit(
    recipe: Annotated[
        str | None, typer.Argument(help="A packaged recipe or a YAML file on this machine.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder of the run as the cluster sees it: a URL or an absolute path."),
    ] = None,
    overrides: Overrides = None,
    variant: Variant = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    wait: Wait = False,
    score: Score = True,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe on a Ray cluster. Uploads the recipe alone: data stay where they are.

    Example: fedkim submit demo --out s3://runs/demo-1 --set data.root=s3://data/demo --wait
    """
    from fedkim_ray.recipe_files import load_recipe

    url, sets = _cluster_url(out), overrides or []
    if resume:
        refuse_another_recipe(sets, variant, recipe)
    loaded = None if resume else load_recipe(_named(recipe), sets, variant or "fedkim")
    client = _connect(address)
    from fedkim_ray.ray_jobs import resume_run, submit_run

    if loaded is None:
        submission_id = resume_run(client, url, score)
    else:
        submission_id = submit_run(client, loaded, url, score)
    _tell_submitted(client, submission_id, url, wait, as_json)


@app.command("list")
def list_(address: Address = None, as_json: AsJson = False) -> None:
    """List the runs that were submitted to the cluster, newest first."""
    client = _connect(address)
    from fedkim_ray.ray_jobs import RUN_URL, list_jobs

    rows = [
        {"id": j.submission_id, "status": j.status.value, "run": (j.metadata or {})[RUN_URL]}
        for j in list_jobs(client)
    ]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("id", "status", "run")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)


@app.command()
def status(submission_id: Submission, address: Address = None, as_json: AsJson = False) -> None:
    """Show where a submitted run stands."""
    client, submission_id = _found(address, submission_id)
    from fedkim_ray.ray_jobs import job_facts

    facts = summary(job_facts(client, submission_id))
    if as_json:
        typer.echo(json.dumps(facts))
        return
    table = Table(title=submission_id, show_header=False)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), escape(str(value)))
    Console().print(table)


@app.command()
def logs(submission_id: Submission, address: Address = None) -> None:
    """Follow a submitted run; ends with the run's exit code."""
    raise typer.Exit(_follow(*_found(address, submission_id)))


@app.command()
def abort(submission_id: Submission, address: Address = None) -> None:
    """Stop a submitted run; what it published is kept."""
    client, submission_id = _found(address, submission_id)
    from fedkim_ray.ray_jobs import stop

    was_running = stop(client, submission_id)
    typer.echo(f"{submission_id} {'is told to stop' if was_running else 'had ended before'}")


@app.command("resume")
def resume_(
    submission_id: Submission,
    wait: Wait = False,
    score: Score = True,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a submitted run that was stopped or lost, as a new submission."""
    client, submission_id = _found(address, submission_id)
    from fedkim_ray.errors import SubmissionError
    from fedkim_ray.ray_jobs import job_facts, resume_run

    facts = job_facts(client, submission_id)
    if not facts.run or not facts.ended:
        raise SubmissionError(
            f"{submission_id} is {facts.status}.",
            "A run of `fedkim submit` that has ended can be resumed.",
            f"Wait for it, or stop it with `fedkim job abort {submission_id}`.",
        )
    _tell_submitted(client, resume_run(client, facts.run, score), facts.run, wait, as_json)


def summary(facts: "JobFacts") -> dict[str, Any]:
    """Return a job's state in plain values; progress is read from the events in its log."""
    last: dict[str, Mapping[str, Any]] = {str(event["event"]): event for event in facts.events}
    rounds = [event["round"] + 1 for event in facts.events if event["event"] == "injected"]
    started = last.get("run_started", {})
    return {
        "submission_id": facts.submission_id,
        "status": facts.status,
        "exit_code": facts.exit_code,
        "run": facts.run,
        "rounds_done": rounds[-1] if rounds else started.get("first", 0),
        "rounds": started.get("rounds"),
        "last_event": facts.events[-1]["event"] if facts.events else None,
        "bundle": last.get("bundle", {}).get("url"),
        "message": facts.message,
    }


def _connect(address: str | None) -> "JobSubmissionClient":
    from fedkim_ray.ray_auth import send_token_if_there_is_one

    send_token_if_there_is_one()  # before Ray is imported
    from fedkim_ray.ray_jobs import connect

    return connect(address)


def _found(address: str | None, submission_id: str) -> tuple["JobSubmissionClient", str]:
    """Return the cluster's client and the submission's id, of the newest for ``last``."""
    client = _connect(address)
    from fedkim_ray.ray_jobs import newest

    return client, newest(client) if submission_id == "last" else submission_id


def _tell_submitted(
    client: "JobSubmissionClient", submission_id: str, url: str, wait: bool, as_json: bool
) -> None:
    if as_json:
        typer.echo(json.dumps({"submission_id": submission_id, "run": url}))
    else:
        typer.echo(f"Submitted {submission_id}: {url}")
        typer.echo(f"Follow it with: fedkim job logs {submission_id}")
    if wait:
        raise typer.Exit(_follow(client, submission_id))


def _follow(client: "JobSubmissionClient", submission_id: str) -> int:
    """Show a job's progress until it ends; Ctrl-C leaves the job alone."""
    from fedkim_ray.cli.progress import RunProgress
    from fedkim_ray.ray_jobs import as_event, follow

    console = Console(stderr=True, highlight=False)
    with RunProgress(console) as progress:

        def show(line: str) -> None:
            event = as_event(line)
            if event is None:
                console.print(escape(line), style="dim")
            else:
                progress(event)

        try:
            return follow(client, submission_id, show)
        except KeyboardInterrupt:
            console.print(f"The job goes on. Stop it with: fedkim job abort {submission_id}")
            sys.exit(INTERRUPTED)


def _named(recipe: str | None) -> str:
    if recipe is None:
        from fedkim_ray.errors import SubmissionError

        raise SubmissionError(
            "No recipe was named.",
            "`fedkim submit RECIPE --out URL` starts a run; --resume goes on with one.",
            "See `fedkim recipes` for the packaged ones.",
        )
    return recipe


def _cluster_url(out: str | None) -> str:
    """Return ``out``, refused where a node of the cluster would read it otherwise.

    Raises:
        SubmissionError: it is absent, or relative to this machine's working folder.
    """
    if out and ("://" in out or out.startswith("/")):
        return out
    from fedkim_ray.errors import SubmissionError

    raise SubmissionError(
        f"--out is {out!r}.",
        "The run folder is a URL or an absolute path that the cluster's nodes reach: a job has a "
        "working folder of its own, which is lost with it.",
        "For example --out s3://runs/demo-1, or a path on a shared volume.",
    )
