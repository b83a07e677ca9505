"""One driver a run: whoever starts or resumes it last.

A driver that only looked dead may wake up while another goes on in its place, on any machine.
Each leaves a record in the run folder; before every publication a driver reads whether the record
is still its own (``storage.Claim``), and ends where it is not.
"""

import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import psutil
from pydantic import BaseModel

from fedkim_ray.errors import FedKimError, StorageError
from fedkim_ray.run_folder import RunFolder
from fedkim_ray.storage import CLAIM_FILE, Claim


class _Driver(BaseModel):
    """What driver.json has beside the token."""

    host: str
    pid: int
    started_s: float


@contextmanager
def driving(run: RunFolder) -> Iterator[RunFolder]:
    """Give the run to this process for the length of a block: no other may publish in it.

    Raises:
        StorageError: a process that lives on this host drives it, or its record was altered.
    """
    _require_no_driver_here(run)
    claim = Claim(run.folder.url, uuid.uuid4().hex)
    run.folder.write_json(CLAIM_FILE, {"token": claim.token, **_this_process()})
    try:
        yield replace(run, folder=replace(run.folder, claim=claim))
    finally:
        with suppress(FedKimError, OSError):  # what ended the block is the news
            claim.require()
            run.folder.remove(CLAIM_FILE)


@contextmanager
def failure_told(run: RunFolder) -> Iterator[None]:
    """Log the error that ends the block, if this driver still has the run."""
    try:
        yield
    except Exception as error:
        own = isinstance(error, FedKimError)  # another's text is not known to hold no data
        said = str(error) if own else type(error).__name__
        with suppress(FedKimError, OSError):  # what ended the block is the news
            if run.folder.claim:
                run.folder.claim.require()
            run.log({"event": "failed", "error": said})
        raise


def _this_process() -> dict[str, Any]:
    started_s = psutil.Process().create_time()
    return {"host": socket.gethostname(), "pid": os.getpid(), "started_s": started_s}


def _require_no_driver_here(run: RunFolder) -> None:
    """Refuse to take a run from a driver that is known to live; of other hosts nothing is known."""
    if not run.folder.exists(CLAIM_FILE):
        return
    record = run.folder.read_fields(CLAIM_FILE, _Driver)
    if _is_another_here(record):
        raise StorageError(
            f"Process {record['pid']} on this host drives run {run.run_id!r}.",
            "A run has one driver.",
            f"Let it finish, or end it with `fedkim abort {run.folder.url}`; if it hangs, kill it. "
            "Then go on with --resume.",
        )


def _is_another_here(record: Mapping[str, Any]) -> bool:
    """Return whether the process of a record lives on this host and is not this one."""
    if record["host"] != socket.gethostname() or record["pid"] == os.getpid():
        return False
    try:
        process = psutil.Process(record["pid"])
        is_same = abs(process.create_time() - record["started_s"]) < 1.0  # numbers are used again
        return bool(is_same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
