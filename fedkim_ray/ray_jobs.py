"""Runs as Ray jobs: submit, watch, stop and go on, through Ray's Jobs SDK.

A submission uploads one file, the resolved recipe. Data stay where the recipe's URL leads, as
the cluster's nodes see it; the run folder is at a URL that those nodes reach.
"""

import asyncio
import json
import shlex
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from fedkim_ray.config import Recipe
from fedkim_ray.errors import EnvironmentProblemError, SubmissionError
from fedkim_ray.recipe_files import dump_recipe
from fedkim_ray.types import SUBMISSION_PREFIX

RECIPE_FILE = "recipe.yaml"
RUN_URL = "fedkim_run"
"""Key of a job's metadata: the URL of its run folder."""
LOST_DRIVER = 1
"""Exit code told for a job that ended without one: its driver was killed or never started."""
RECONNECTS = 5
"""Times a broken log stream is opened again."""

OnLine = Callable[[str], None]

NO_AGENT = "No available agent"
STOP_WAIT_S = 60
"""Seconds that a run which is told to end may take; after three, Ray's own, its clients still train
and Ray would kill the driver, as if by accident."""
AGENT_TIMEOUT_S = 60.0
"""A head answers some seconds before the agent that starts its jobs is there."""


@dataclass(frozen=True, slots=True)
class JobFacts:
    """Where a submitted run stands."""

    submission_id: str
    status: str
    """Ray's word: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    message: str
    run: str
    """URL of the run folder; empty where the job is none of ours."""
    exit_code: int | None
    """The run's own exit code; None while it goes on."""
    events: tuple[Mapping[str, Any], ...] = ()
    """What the run has told so far."""

    @property
    def ended(self) -> bool:
        """Whether the job will change no more."""
        return JobStatus(self.status).is_terminal()


def connect(address: str | None) -> JobSubmissionClient:
    """Return a client of the cluster's Jobs API.

    Args:
        address: URL of the dashboard, such as http://127.0.0.1:8265; None takes RAY_ADDRESS.

    Raises:
        EnvironmentProblemError: nothing answers there, or it refuses this user.
    """
    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        raise EnvironmentProblemError(
            f"Ray's Jobs API at {address or 'RAY_ADDRESS'} refuses this user.",
            "A head with token authentication answers those who send its token.",
            "Export RAY_AUTH_MODE=token and the cluster's RAY_AUTH_TOKEN.",
        ) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EnvironmentProblemError(
            f"Ray's Jobs API at {address or 'RAY_ADDRESS'} does not answer: {_first_line(error)}",
            "Runs are submitted to the dashboard of a Ray head, port 8265 as a rule.",
            "Give --address http://HEAD:8265, or forward that port to this machine.",
        ) from None


def submit_run(
    client: JobSubmissionClient, recipe: Recipe, run_url: str, evaluate: bool = True
) -> str:
    """Start a run of ``recipe`` in a new folder and return the submission's id."""
    with tempfile.TemporaryDirectory(prefix="fedkim-submit-") as upload:
        (Path(upload) / RECIPE_FILE).write_text(dump_recipe(recipe))
        return _submit(client, [RECIPE_FILE], run_url, evaluate, {"working_dir": upload})


def resume_run(client: JobSubmissionClient, run_url: str, evaluate: bool = True) -> str:
    """Go on with the run in ``run_url``, which has its own recipe; return the new id."""
    return _submit(client, ["--resume"], run_url, evaluate, {})


def _submit(
    client: JobSubmissionClient,
    arguments: list[str],
    run_url: str,
    evaluate: bool,
    runtime_env: dict[str, Any],
) -> str:
    runtime_env = {**runtime_env, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}}
    command = ["fedkim", "run", *arguments, "--out", run_url, "--events"]
    command += [] if evaluate else ["--no-evaluate"]
    submission_id = f"{SUBMISSION_PREFIX}{uuid.uuid4().hex[:10]}"
    deadline = time.monotonic() + AGENT_TIMEOUT_S
    while True:
        try:
            return str(
                client.submit_job(
                    entrypoint=shlex.join(command),
                    submission_id=submission_id,
                    runtime_env=runtime_env,
                    metadata={RUN_URL: run_url},
                )
            )
        except RuntimeError as error:
            if NO_AGENT not in str(error) or time.monotonic() > deadline:
                raise _refused(error) from None
        time.sleep(1.0)


def _refused(error: RuntimeError) -> SubmissionError:
    return SubmissionError(
        f"The cluster did not take the run: {_first_line(error)}",
        "A head with a running agent takes submissions.",
        "See `ray status` and the head's dashboard_agent.log, then submit again.",
    )


def job_facts(client: JobSubmissionClient, submission_id: str) -> JobFacts:
    """Return where a job stands, and the events that its log holds.

    Raises:
        SubmissionError: the cluster knows no such job.
    """
    details = _details(client, submission_id)
    events, _ = split_log(client.get_job_logs(submission_id))
    return JobFacts(
        submission_id=submission_id,
        status=details.status.value,
        message=details.message or "",
        run=(details.metadata or {}).get(RUN_URL, ""),
        exit_code=_exit_code(details),
        events=tuple(events),
    )


def list_jobs(client: JobSubmissionClient) -> list[JobDetails]:
    """Return the cluster's submitted runs, newest first."""
    ours = [job for job in client.list_jobs() if RUN_URL in (job.metadata or {})]
    return sorted(ours, key=lambda job: job.start_time or 0, reverse=True)


def newest(client: JobSubmissionClient) -> str:
    """Return the id of the run that was submitted last.

    Raises:
        SubmissionError: none was.
    """
    jobs = list_jobs(client)
    if not jobs:
        raise SubmissionError(
            "The cluster knows no submitted run.",
            "`last` is the newest of `fedkim job list`; a new head has forgotten the old one's.",
            "Submit one, or go on with a run by its folder: `fedkim submit --resume --out URL`.",
        )
    return str(jobs[0].submission_id)


def follow(client: JobSubmissionClient, submission_id: str, on_line: OnLine) -> int:
    """Hand on each line of a job's log until it ends; return the run's exit code.

    A stream that breaks is opened again, and lines already handed on are left out.
    """
    told = 0
    for attempt in range(RECONNECTS + 1):
        try:
            for number, line in enumerate(_lines(client, submission_id)):
                if number >= told:
                    on_line(line)
                    told = number + 1
            break
        except (RuntimeError, OSError):
            if attempt == RECONNECTS:
                raise EnvironmentProblemError(
                    f"The log of {submission_id} broke off {RECONNECTS + 1} times.",
                    "The head streams it for as long as the job runs.",
                    f"The job may go on: see `fedkim job status {submission_id}`.",
                ) from None
    code = _exit_code(_details(client, submission_id))
    return LOST_DRIVER if code is None else code


def stop(client: JobSubmissionClient, submission_id: str) -> bool:
    """End a job; return whether it was still under way. What it published is kept."""
    _details(client, submission_id)
    return bool(client.stop_job(submission_id))


def split_log(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the events in a job's log, and the lines that are none."""
    events: list[dict[str, Any]] = []
    others: list[str] = []
    for line in text.splitlines():
        event = as_event(line)
        if event is None:
            others.append(line)
        else:
            events.append(event)
    return events, others


def as_event(line: str) -> dict[str, Any] | None:
    """Return the event that a line of ``fedkim run --events`` holds; None for other lines."""
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "event" in value else None


def _details(client: JobSubmissionClient, submission_id: str) -> JobDetails:
    try:
        return client.get_job_info(submission_id)
    except RuntimeError as error:
        raise SubmissionError(
            f"The cluster knows no job {submission_id!r} ({_first_line(error)}).",
            "`fedkim job list` names the submitted runs; a new head has forgotten those of the "
            "old one.",
            "Go on with a run by its folder: `fedkim submit --resume --out URL`.",
        ) from None


def _exit_code(details: JobDetails) -> int | None:
    if not details.status.is_terminal():
        return None
    if details.status == JobStatus.SUCCEEDED:
        return 0
    return details.driver_exit_code or LOST_DRIVER


def _lines(client: JobSubmissionClient, submission_id: str) -> Iterator[str]:
    """Yield whole lines of a job's log as they come."""
    rest = ""
    with asyncio.Runner() as runner:
        chunks = client.tail_job_logs(submission_id)
        try:
            while True:
                rest += runner.run(anext(chunks))  # type: ignore[arg-type]
                *whole, rest = rest.split("\n")
                yield from whole
        except StopAsyncIteration:
            if rest:
                yield rest


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
