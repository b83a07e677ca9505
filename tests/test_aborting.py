"""A run ended from outside."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedkim_ray.aborting import abortable
from fedkim_ray.errors import RunAbortedError
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.run_folder import RunFolder
from fedkim_ray.run_status import read_log


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that has only begun."""
    return RunFolder.create(str(tmp_path / "run"), load_recipe("tiny"))


def test_the_mark_ends_a_block_that_waits(run: RunFolder) -> None:
    threading.Timer(0.1, run.request_abort).start()
    with pytest.raises(RunAbortedError, match="--resume"), abortable(run, poll_s=0.02):
        time.sleep(20.0)
    assert read_log(run)[-1]["event"] == "aborted"


def test_the_mark_is_heard_where_ctrl_c_is_not(run: RunFolder) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell's background job has it
    try:
        threading.Timer(0.1, run.request_abort).start()
        with pytest.raises(RunAbortedError), abortable(run, poll_s=0.02):
            time.sleep(20.0)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_resumed_run_forgets_the_mark(run: RunFolder) -> None:
    run.request_abort()
    with abortable(run, poll_s=0.02):
        time.sleep(0.1)
        assert not run.abort_requested()


def test_ctrl_c_stays_ctrl_c(run: RunFolder) -> None:
    with pytest.raises(KeyboardInterrupt), abortable(run):
        raise KeyboardInterrupt
    assert read_log(run) == []


def test_a_look_that_fails_is_not_the_last(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[bool | OSError] = iter([False, OSError("The storage is busy."), True, True])

    def abort_requested(own: RunFolder) -> bool:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(RunFolder, "abort_requested", abort_requested)
    with pytest.raises(RunAbortedError), abortable(run, poll_s=0.02):
        time.sleep(20.0)
