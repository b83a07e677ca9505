"""A scratch folder that belongs to one process, and goes with it even where it was killed.

The folder carries a lock that the kernel lets go of when its process ends, however that came. So a
folder whose lock is free is nobody's, and the next process that makes one clears it away.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path


class OwnFolder:
    """A new empty folder of this process's own."""

    def __init__(self, prefix: str, parent: Path | None = None) -> None:
        """Clear away what ended processes left, and make a folder.

        Args:
            prefix: Begins the names of all folders of this kind.
            parent: Where they are; the machine's folder for temporary files where None.
        """
        parent = parent or Path(tempfile.gettempdir())
        for left in parent.glob(f"{prefix}*"):
            _clear_unless_owned(left)
        self.path, self._lock = _claim(prefix, parent)

    def close(self) -> None:
        """Drop the folder and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _claim(prefix: str, parent: Path) -> tuple[Path, int | None]:
    """Return a new folder and its lock."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.is_dir():
            return path, lock
        os.close(lock)  # between making and locking it, another process took it for left behind


def _clear_unless_owned(path: Path) -> None:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return  # another user's, or gone meanwhile
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        pass  # its process lives
    finally:
        os.close(lock)
