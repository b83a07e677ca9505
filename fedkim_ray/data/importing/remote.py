"""Sources and data roots at other fsspec URLs than local folders: what may go wrong there.

A server that accepts a connection and then says nothing would hold an import for ever, or for the
five minutes in which the library gives up on any file, however fast it comes. Here a stall counts,
and not the length of a download. S3 and GCS have limits of this kind of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from fedkim_ray.errors import DataError, EnvironmentProblemError
from fedkim_ray.storage import Folder, beneath

STALL_S = 60.0
"""Seconds that a server may take to accept a connection, and to send the next bytes."""


def open_source(url: str) -> Folder:
    """Return the folder at ``url``, which gives up where a web server stalls."""
    if not url.startswith(("http://", "https://")):
        return Folder.at(url)
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=STALL_S, sock_read=STALL_S)
    fs, path = fsspec.core.url_to_fs(url, client_kwargs={"timeout": timeout})
    return Folder(fs, path.rstrip("/"))


def lives_in_this_process(folder: Folder) -> bool:
    """Return whether other processes would see another folder at the same URL."""
    return isinstance(folder.fs, MemoryFileSystem)


@contextmanager
def answering(folder: Folder) -> Iterator[None]:
    """Turn what a remote file system raises into one error that can cross processes.

    Raises:
        DataError: the folder is remote and did not answer.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (EnvironmentProblemError, *_failures()) as error:
        if folder.is_local or not isinstance(beneath(error), _failures()):
            raise
        raise DataError(
            f"{folder.url!r} stopped answering ({type(beneath(error)).__name__}).",
            f"A server sends the next bytes within {STALL_S:g} s, and every file whole.",
            "Check address, rights and network, and import again: what was read is kept.",
        ) from None


def _failures() -> tuple[Any, ...]:
    try:
        from aiohttp import ClientError
    except ImportError:
        return (OSError,)
    return (OSError, ClientError)
