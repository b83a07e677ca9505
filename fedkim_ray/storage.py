"""Folders at fsspec URLs, and the one way to publish into them.

A publication writes its files first and its manifest last, so the manifest's existence means
that the rest is whole. The manifest carries the SHA-256 and size of every file, the kind and
the format version. Only safetensors, JSON, Parquet and YAML are written; never pickle.
"""

import glob
import hashlib
import json
import os
import posixpath
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import fsspec
import safetensors.torch
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ValidationError

from fedkim_ray.errors import EnvironmentProblemError, FedKimError, StorageError, TakenOverError
from fedkim_ray.types import Params

MANIFEST = "manifest.json"
COPIED_FROM = "copied_from"
CLAIM_FILE = "driver.json"
PROBE = ".writable"
CHUNK_BYTES = 1 << 20


class _FileFacts(BaseModel):
    sha256: str


class _Manifest(BaseModel):
    """What the manifest of any kind has."""

    kind: str
    format_version: int
    files: dict[str, _FileFacts]


class _ClaimRecord(BaseModel):
    token: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to publish below a folder: it is with whoever wrote the record there last.

    It needs no lock, so it holds on object stores too, and is plain values for other processes.
    """

    url: str
    """Of the folder."""
    token: str

    def require(self) -> None:
        """Read the record.

        Raises:
            TakenOverError: another has it by now.
        """
        try:
            record = Folder.at(self.url).read_fields(CLAIM_FILE, _ClaimRecord)
            is_ours = record["token"] == self.token
        except StorageError:  # it was given back
            is_ours = False
        if not is_ours:
            raise TakenOverError(
                f"Another driver took over this run: the {CLAIM_FILE} of {self.url!r} is not ours.",
                "A run has one driver, the one that started or resumed it last.",
                "Leave it to the other, and see `fedkim status`; this one publishes no more.",
            )


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder at an fsspec URL; it need not exist before the first write.

    Whatever its file system raises becomes an EnvironmentProblemError: see ``beneath``.
    """

    fs: fsspec.AbstractFileSystem
    path: str
    claim: Claim | None = field(default=None, compare=False)
    """Where given, needed for every publication in the folder or below it."""

    @classmethod
    def at(cls, url: str | os.PathLike[str], claim: Claim | None = None) -> "Folder":
        """Return the folder at ``url``: a local path, or any URL fsspec knows.

        Raises:
            EnvironmentProblemError: the package that reads such URLs is not installed, or the
                server does not answer.
            StorageError: there are no such URLs.
        """
        text = os.fspath(url)
        with _reading(text):
            try:
                fs, path = fsspec.core.url_to_fs(text)
            except ImportError as error:
                raise EnvironmentProblemError(
                    f"{text!r} cannot be opened: {error}.",
                    "Object stores need a package of their own, on every machine of the cluster.",
                    "In the project: `pip install -c constraints.txt '.[s3]'`, "
                    "for gs:// `'.[gcs]'`.",
                ) from None
            except (TypeError, ValueError) as error:  # TypeError: the URL lacks a part
                raise StorageError(
                    f"{text!r} cannot be opened: {error}.",
                    "A folder is a path, or a URL such as s3://BUCKET/PATH or gs://BUCKET/PATH.",
                    "Correct it.",
                ) from None
        return cls(fs, path.rstrip("/"), claim)

    @property
    def url(self) -> str:
        """The URL that leads here again; local folders give a plain path."""
        return self.path if self.is_local else self.fs.unstrip_protocol(self.path)

    @property
    def is_local(self) -> bool:
        """Whether the folder is on this machine's own file system."""
        return isinstance(self.fs, LocalFileSystem)

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.fs, posixpath.join(self.path, name), self.claim)

    def full(self, name: str) -> str:
        """Return the path of ``name`` within this folder's file system."""
        return posixpath.join(self.path, name)

    def exists(self, name: str = "") -> bool:
        """Return whether the folder, or ``name`` in it, exists."""
        path = self.full(name) if name else self.path
        with _reading(path):
            return bool(self.fs.exists(path))

    def names(self) -> list[str]:
        """Return the sorted names of what lies directly inside; empty if nothing does."""
        if not self.exists():
            return []
        with _reading(self.path):
            return sorted(posixpath.basename(p.rstrip("/")) for p in self.fs.ls(self.path, False))

    def glob(self, pattern: str) -> list[str]:
        """Return the sorted names, relative to this folder, of files matching ``pattern``."""
        start = len(self.path) + 1
        with _reading(self.path):
            return sorted(path[start:] for path in self.fs.glob(self.pattern(pattern)))

    def pattern(self, pattern: str) -> str:
        """Return the pattern within the file system, to which the folder's name is plain text."""
        return posixpath.join(glob.escape(self.path), pattern)

    def read_bytes(self, name: str) -> bytes:
        """Return the content of ``name``.

        Raises:
            StorageError: there is no such file.
        """
        path = self.full(name)
        with _reading(path):
            try:
                return bytes(self.fs.cat_file(path))
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise StorageError(
                    f"There is no file {path!r}.",
                    "A published folder has all the files that its manifest names.",
                    "Check the path, or restore the folder from a copy.",
                ) from None

    def require_writable(self) -> None:
        """Write and remove a file, so that what cannot be written is told before the work.

        Raises:
            EnvironmentProblemError: nothing can be written here.
        """
        self.write_bytes(PROBE, b"")
        self.remove(PROBE)

    def remove(self, name: str) -> None:
        """Remove the file ``name``.

        Raises:
            EnvironmentProblemError: there is none, or nobody may remove it.
        """
        path = self.full(name)
        with _writing(path):
            self.fs.rm_file(path)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write ``name`` so that a reader sees the old content or the new, never a part.

        Raises:
            EnvironmentProblemError: the disk is full, or nobody may write there.
        """
        path = self.full(name)
        with _writing(path):
            self.fs.makedirs(posixpath.dirname(path), exist_ok=True)
            if self.is_local:
                _replace_file(path, data)
            else:  # object stores publish an object only once it is whole
                self.fs.pipe_file(path, data)

    def append_line(self, name: str, line: str) -> None:
        """Append one line to a log; logs are no part of any publication.

        A last line that a crash or a full disk cut off stays alone: this one begins anew.

        Raises:
            EnvironmentProblemError: the disk is full, or nobody may write there.
        """
        path = self.full(name)
        with _writing(path):
            self.fs.makedirs(self.path, exist_ok=True)
            if self.is_local:
                with open(path, "a+b") as file:  # which writes at the end, wherever it reads
                    file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
                    file.write(_next_line(file.read(), line))
            else:
                before = self.read_bytes(name) if self.exists(name) else b""
                self.fs.pipe_file(path, before + _next_line(before, line))

    def read_json(self, name: str) -> Any:
        """Return the JSON value in ``name``.

        Raises:
            StorageError: there is no such file, or it is not JSON.
        """
        data = self.read_bytes(name)
        try:
            return json.loads(data)
        except ValueError as error:
            raise StorageError(
                f"{self.full(name)!r} is not JSON ({error}).",
                "The file is written whole or not at all, so it was altered afterwards.",
                "Restore it from a copy.",
            ) from None

    def read_fields(self, name: str, expected: type[BaseModel]) -> dict[str, Any]:
        """Return the JSON object in ``name`` as it is, after holding it against a model.

        Raises:
            StorageError: there is no such file, or it lacks a field of ``expected``.
        """
        values: dict[str, Any] = self.read_json(name)
        try:
            expected.model_validate_json(json.dumps(values))  # whose faults are in JSON's words
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise StorageError(
                f"{self.full(name)!r} cannot be used: {where}: {first['msg']}.",
                f"It is a JSON object with {', '.join(expected.model_fields)}.",
                "Restore it from a copy; if another program wrote it, take it away.",
            ) from None
        return values

    def write_json(self, name: str, value: Any) -> None:
        """Write ``value`` as indented JSON with sorted keys."""
        self.write_bytes(name, json.dumps(value, indent=1, sort_keys=True).encode())

    def read_tensors(self, name: str) -> dict[str, Any]:
        """Return the tensors of a safetensors file, on CPU."""
        return dict(safetensors.torch.load(self.read_bytes(name)))

    def write_tensors(self, name: str, tensors: Params) -> None:
        """Write tensors as one safetensors file; shared memory is copied apart."""
        whole = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        self.write_bytes(name, safetensors.torch.save(whole))

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a file, read in pieces."""
        digest = hashlib.sha256()
        path = self.full(name)
        with _reading(path), self.fs.open(path, "rb") as file:
            while piece := file.read(CHUNK_BYTES):
                digest.update(piece)
        return digest.hexdigest()


def beneath(error: BaseException) -> BaseException:
    """Return what the file system itself raised where ``error`` tells of that, else ``error``."""
    told = error.__cause__ if isinstance(error, EnvironmentProblemError) else None
    return told or error


def _reading(path: str) -> AbstractContextManager[None]:
    """Say what cannot be read, whatever of it fails."""
    return _told(
        f"{path!r} cannot be read",
        "Whoever reads there needs the rights to, and a file system that answers.",
        "Mend the permissions, the credentials or the network, then try again.",
    )


def _writing(path: str) -> AbstractContextManager[None]:
    """Say what cannot be written, whatever of it fails."""
    return _told(
        f"{path!r} cannot be written",
        "A run writes its results there; what was published before is whole.",
        "Free space or mend the permissions, then go on with --resume.",
    )


@contextmanager
def _told(came: str, expected: str, remedy: str) -> Iterator[None]:
    """Tell of any error but our own: every object store's library raises classes of its own."""
    try:
        yield
    except FedKimError:
        raise
    except Exception as error:
        raise EnvironmentProblemError(f"{came}: {_cause(error)}.", expected, remedy) from error


def _cause(error: Exception) -> str:
    """Return the operating system's words, else the error's class and its first line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _next_line(before: bytes, line: str) -> bytes:
    """Return what makes ``line`` a line of its own after ``before``."""
    end = b"\n" if before and not before.endswith(b"\n") else b""
    return end + line.encode() + b"\n"


def _replace_file(path: str, data: bytes) -> None:
    part = f"{path}.{uuid.uuid4().hex[:8]}.part"
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        # A full disk needs the space back, and a manifest must not list it.
        with suppress(OSError):
            os.unlink(part)
        raise


@contextmanager
def publish(folder: Folder, kind: str, format_version: int, **facts: Any) -> Iterator[Folder]:
    """Give ``folder`` to write files into, and write its manifest once the block has ended well.

    Args:
        folder: Where to publish; a leftover of an unfinished publication is removed first.
        kind: What is published: ``round``, ``bundle`` and so on.
        format_version: Version of the layout inside; readers refuse others.
        facts: Further JSON values for the manifest.

    Raises:
        StorageError: the folder is claimed, and another has the claim by now.
        EnvironmentProblemError: the disk is full, or nobody may write there.
    """
    _require_claim(folder)
    unpublish(folder)
    with _writing(folder.path):
        folder.fs.makedirs(folder.path, exist_ok=True)
    yield folder
    with _reading(folder.path):
        files = {
            name: {"sha256": folder.sha256(name), "size_bytes": folder.fs.size(folder.full(name))}
            for name in folder.glob("**")
            if folder.fs.isfile(folder.full(name))
        }
    manifest = {"kind": kind, "format_version": format_version, "files": files, **facts}
    _require_claim(folder)  # writing the files took its time
    folder.write_json(MANIFEST, manifest)


def unpublish(folder: Folder) -> None:
    """Remove a publication, or what was to become one; its manifest goes before its files do."""
    if is_published(folder):
        folder.remove(MANIFEST)
    if folder.exists():
        with _writing(folder.path):
            folder.fs.rm(folder.path, recursive=True)


def _require_claim(folder: Folder) -> None:
    if folder.claim is not None:
        folder.claim.require()


def amend(folder: Folder, kind: str, format_version: int, files: Mapping[str, bytes]) -> None:
    """Add files to a publication, or replace some; whoever is killed meanwhile leaves it whole.

    The manifest forgets the files before they change and names them again at the end. Only a reader
    that began before the first of these moments and ends after it can find a file altered.

    Raises:
        StorageError: the publication is not whole, or of another kind or format version.
    """
    manifest = open_published(folder, kind, format_version)
    facts = {name: fact for name, fact in manifest["files"].items() if name not in files}
    folder.write_json(MANIFEST, {**manifest, "files": facts})
    for name, data in files.items():
        folder.write_bytes(name, data)
        facts[name] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    folder.write_json(MANIFEST, {**manifest, "files": facts})


def copy_published(source: Folder, target: Folder, kind: str, format_version: int) -> None:
    """Publish in ``target`` what is published in ``source``, on any file systems.

    Raises:
        StorageError: the source is not whole, or of another kind or format version.
    """
    manifest = open_published(source, kind, format_version)
    facts = {k: v for k, v in manifest.items() if k not in ("kind", "format_version", "files")}
    facts[COPIED_FROM] = source.url
    with publish(target, kind, format_version, **facts) as out:
        for name in manifest["files"]:
            out.write_bytes(name, source.read_bytes(name))


def is_published(folder: Folder) -> bool:
    """Return whether a manifest says that ``folder`` is whole."""
    return folder.exists(MANIFEST)


def is_copied(folder: Folder) -> bool:
    """Return whether what is published in ``folder`` was made elsewhere."""
    return COPIED_FROM in _manifest(folder)


def require_replaceable(folder: Folder, kind: str) -> None:
    """Refuse to publish where somebody keeps something else: publishing removes what lies there.

    Raises:
        StorageError: the folder holds files, and they are no earlier publication of ``kind``.
    """
    names = folder.names()
    if names and _kind(folder) != kind:
        raise StorageError(
            f"{folder.url!r} holds {names[0]!r} and is no {kind}.",
            f"A {kind} is written into a new folder, an empty one, or in place of an older {kind}.",
            "Name another folder.",
        )


def _kind(folder: Folder) -> str | None:
    """Return the kind of what is published; None where nothing is, or by another program."""
    try:
        return str(_manifest(folder)["kind"])
    except StorageError:
        return None


def _manifest(folder: Folder) -> dict[str, Any]:
    """Return the manifest, of whatever kind and format version.

    Raises:
        StorageError: there is none, or it is not one of ours.
    """
    return folder.read_fields(MANIFEST, _Manifest)


def open_published(folder: Folder, kind: str, format_version: int) -> dict[str, Any]:
    """Return the manifest of ``folder`` after holding every file against it.

    Raises:
        StorageError: nothing is published there, it is of another kind or format version, or a
            file is missing or altered.
    """
    if not is_published(folder):
        raise StorageError(
            f"There is no published {kind} at {folder.url!r}.",
            f"A whole {kind} has a {MANIFEST}, which is written last.",
            "Check the path; if a run is still writing it, wait or resume that run.",
        )
    manifest = _manifest(folder)
    came = (manifest["kind"], manifest["format_version"])
    if came != (kind, format_version):
        raise StorageError(
            f"{folder.url!r} has the kind {came[0]!r} and format version {came[1]}.",
            f"This release reads a {kind} of format version {format_version}.",
            "Use the release that wrote it, or make it anew with this one.",
        )
    for name, fact in manifest["files"].items():
        _require_unaltered(folder, name, fact["sha256"])
    return manifest


def require_unaltered(folder: Folder, name: str) -> None:
    """Hold one file of a publication, of any kind, against its manifest.

    Raises:
        StorageError: nothing is published there, or the file is missing, altered or not listed.
    """
    listed = _manifest(folder)["files"]
    _require_unaltered(folder, name, listed[name]["sha256"] if name in listed else "not listed")


def _require_unaltered(folder: Folder, name: str, expected: str) -> None:
    came = folder.sha256(name) if folder.exists(name) else "no such file"
    if came != expected:
        raise StorageError(
            f"{folder.full(name)!r} has SHA-256 {came}.",
            f"Its manifest says {expected}.",
            "The file was altered, truncated or lost after it was published: restore it.",
        )
