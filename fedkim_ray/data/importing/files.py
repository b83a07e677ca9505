"""The source's files, read so that no name leads out of the source's folder."""

import errno
import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedkim_ray.data.importing.remote import open_source
from fedkim_ray.data.reasons import rejected
from fedkim_ray.storage import Folder

MAX_BYTES = 512 << 20
"""Largest file that is read whole; tables are streamed and may have any size."""


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """What an importer reads, at any fsspec URL; names are relative to it."""

    folder: Folder

    @classmethod
    def at(cls, url: str) -> "SourceFiles":
        """Return the files at ``url``."""
        return cls(open_source(url))

    def glob(self, pattern: str) -> list[str]:
        """Return the sorted names that match."""
        return self.folder.glob(pattern)

    def exists(self, name: str) -> bool:
        """Return whether there is a file ``name``."""
        return self.folder.exists(self.safe(name))

    def safe(self, name: str) -> str:
        """Return ``name`` in its plain form.

        Raises:
            RowRejectedError: it leads out of the folder.
        """
        plain = posixpath.normpath(name.replace("\\", "/"))
        outside = plain.startswith("../") or plain in ("..", ".") or "\0" in plain
        if outside or posixpath.isabs(plain) or "://" in name or self._links_out(plain):
            raise rejected("path_escapes")
        return plain

    def _links_out(self, plain: str) -> bool:
        if not self.folder.is_local:
            return False
        home = Path(self.folder.path).resolve()
        return not Path(self.folder.full(plain)).resolve().is_relative_to(home)

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            RowRejectedError: the name leads out of the folder, or the file is absent or too large.
        """
        path = self.folder.full(self.safe(name))
        try:
            if self.folder.fs.size(path) > MAX_BYTES:
                raise rejected("file_too_large")
            return bytes(self.folder.fs.cat_file(path))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise rejected("file_missing") from None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise rejected("file_missing") from None  # a text that no file could have as its name

    def open(self, name: str) -> Any:
        """Open a file for streaming; ``.gz`` and the like are unpacked on the way."""
        return self.folder.fs.open(self.folder.full(self.safe(name)), "rb", compression="infer")

    @contextmanager
    def local(self, *names: str) -> Iterator[Path]:
        """Give a local folder that holds these files, for libraries that read paths alone.

        A local source is given as it is; of a remote one the files are copied.

        Raises:
            RowRejectedError: a name leads out of the folder, or a file is absent or too large.
        """
        plain = [self.safe(name) for name in names]
        if self.folder.is_local:
            if not all(os.path.isfile(self.folder.full(name)) for name in plain):
                raise rejected("file_missing")
            yield Path(self.folder.path)
            return
        with TemporaryDirectory() as scratch:
            for name in plain:
                copy = Path(scratch, name)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(self.read(name))
            yield Path(scratch)
