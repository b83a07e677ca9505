"""Who drives a run: the last that took it, and nobody beside a driver that is known to live."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedkim_ray.driving import driving, failure_told
from fedkim_ray.errors import StorageError
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.run_folder import RunFolder
from fedkim_ray.run_status import read_status
from fedkim_ray.storage import Claim, is_published, publish


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that has only begun."""
    return RunFolder.create(str(tmp_path / "run"), load_recipe("tiny"))


@pytest.fixture
def other() -> Iterator[psutil.Process]:
    """Another process on this host."""
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE) as process:
        yield psutil.Process(process.pid)


def record(process: psutil.Process, **changed: Any) -> dict[str, Any]:
    facts = {"token": "t", "host": socket.gethostname(), "pid": process.pid}
    return {**facts, "started_s": process.create_time(), **changed}


def aggregate(run: RunFolder) -> None:
    with publish(run.aggregated(0), "aggregated", 1) as out:
        out.write_json("report.json", {})


def test_a_driver_publishes_and_takes_its_record_away_at_the_end(run: RunFolder) -> None:
    with driving(run) as driven:
        assert run.folder.read_json("driver.json")["pid"] == os.getpid()
        aggregate(driven)
    assert is_published(run.aggregated(0))
    assert not run.folder.exists("driver.json")


def test_a_driver_that_another_replaced_publishes_nothing(
    run: RunFolder, other: psutil.Process
) -> None:
    theirs = record(other, host="another")
    with driving(run) as driven:
        run.folder.write_json("driver.json", theirs)
        with pytest.raises(StorageError, match="took over") as caught:
            aggregate(driven)
    assert caught.value.exit_code == 2
    assert not run.aggregated(0).exists()
    assert run.folder.read_json("driver.json") == theirs


def test_a_run_is_not_taken_from_a_driver_that_lives_here(
    run: RunFolder, other: psutil.Process
) -> None:
    run.folder.write_json("driver.json", record(other))
    refusal = f"Process {other.pid} on this host .*fedkim abort"
    with pytest.raises(StorageError, match=refusal), driving(run):
        pass
    assert run.folder.read_json("driver.json")["token"] == "t"


@pytest.mark.parametrize("changed", [{"host": "another"}, {"started_s": 0.0}])
def test_a_run_is_taken_from_a_driver_that_may_be_dead(
    run: RunFolder, other: psutil.Process, changed: dict[str, Any]
) -> None:
    run.folder.write_json("driver.json", record(other, **changed))
    with driving(run) as driven:
        aggregate(driven)


def test_a_run_is_taken_from_a_driver_that_was_killed(
    run: RunFolder, other: psutil.Process
) -> None:
    run.folder.write_json("driver.json", record(other))
    other.kill()
    while other.status() != psutil.STATUS_ZOMBIE:  # nobody asks for its exit code
        time.sleep(0.01)
    with driving(run) as driven:
        aggregate(driven)


@pytest.mark.parametrize("foreign", [[], {"driver": "golf"}])
def test_a_record_that_is_none_of_ours_is_named(run: RunFolder, foreign: Any) -> None:
    run.folder.write_json("driver.json", foreign)
    with pytest.raises(StorageError, match=r"driver\.json' cannot be used"), driving(run):
        pass
    with pytest.raises(StorageError, match="Another driver took over"):
        Claim(run.folder.url, "mine").require()


def end(run: RunFolder, error: Exception, claim: str | None = None) -> tuple[str, str | None]:
    """Let a driver end with an error, its claim replaced before; return the status after it."""
    with suppress(type(error)), driving(run) as driven, failure_told(driven):
        run.log({"event": "run_started"})
        if claim:
            run.folder.write_json("driver.json", {"token": claim})
        raise error
    status = read_status(run)
    return status["phase"], status["error"]


def test_what_ends_a_run_is_in_its_log_unless_another_drives_it(run: RunFolder) -> None:
    own = StorageError("It came.", "That was due.", "Do this.")
    assert end(run, own) == ("failed", "It came. That was due. Do this.")
    assert end(run, ValueError("Jane Doe")) == ("failed", "ValueError")
    assert end(run, own, claim="another's") == ("starting", None)
