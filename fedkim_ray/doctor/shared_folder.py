"""Whether nodes write one folder: a mark that one leaves there, which each other must find.

A path on every node's own disk can be written by all, and none sees what the others wrote.
"""

import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from fedkim_ray.storage import Folder


def leave_mark(url: str, name: str) -> list[Path]:
    """Write the file ``name`` in the folder at ``url``; return the folders made for it.

    Raises:
        EnvironmentProblemError: nothing can be written there.
    """
    folder = Folder.at(url)
    way = (Path(folder.path), *Path(folder.path).parents) if folder.is_local else ()
    made = [path for path in way if not path.exists()]
    try:
        folder.write_bytes(name, b"")
    except BaseException:
        _remove(made)
        raise
    return made


def find_mark(url: str, name: str) -> str:
    """Look for the mark and write a file beside it; say what is wrong."""
    folder = Folder.at(url)
    if not folder.exists(name):
        return "the driver's file is not seen there"
    own = f"{name}-{uuid.uuid4().hex}"
    folder.write_bytes(own, b"")
    folder.fs.rm(folder.full(own))
    return ""


def clear_mark(url: str, name: str, made: Iterable[Path]) -> None:
    """Remove the mark, and the folders made for it if nothing else came to lie there."""
    folder = Folder.at(url)
    folder.fs.rm(folder.full(name))
    _remove(made)


def _remove(made: Iterable[Path]) -> None:
    """Remove empty folders, the deepest first."""
    with suppress(OSError):
        for path in made:
            os.rmdir(path)
