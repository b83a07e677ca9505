"""Fetching from a registry that is a folder: no network."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from fedkim_ray.data import packages
from fedkim_ray.data.packages import fetch_package_file, fetch_package_files
from fedkim_ray.errors import EnvironmentProblemError, StorageError

CONTENT = b"1,2\n3,4\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MEMBER = "demo_pkg/data/table.csv"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip searches in place of any index, and an empty cache."""
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("FEDKIM_CACHE", str(tmp_path / "cache"))
    return folder


def write_wheel(folder: Path) -> Path:
    path = folder / "demo_pkg-1.0-py3-none-any.whl"
    info = "demo_pkg-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(MEMBER, CONTENT)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: demo-pkg\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def test_a_file_is_fetched_once_and_then_comes_from_the_cache(
    registry: Path, tmp_path: Path
) -> None:
    wheel = write_wheel(registry)
    path = fetch_package_file("demo-pkg", "1.0", MEMBER, SHA256)
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path / "cache")
    wheel.unlink()
    assert fetch_package_file("demo-pkg", "1.0", MEMBER, SHA256) == path
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"], "no part is left behind"


def test_a_damaged_cache_is_fetched_anew(registry: Path) -> None:
    write_wheel(registry)
    path = fetch_package_file("demo-pkg", "1.0", MEMBER, SHA256)
    path.write_bytes(CONTENT[:-1])
    assert fetch_package_file("demo-pkg", "1.0", MEMBER, SHA256).read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_nothing_is_kept(registry: Path, tmp_path: Path) -> None:
    write_wheel(registry)
    with pytest.raises(StorageError, match=f"table.csv.*has SHA-256 {SHA256}.*made with 00ff"):
        fetch_package_file("demo-pkg", "1.0", MEMBER, "00ff")
    assert not list((tmp_path / "cache").rglob("*.csv"))


def test_a_package_that_is_not_there_gives_one_clear_error(registry: Path) -> None:
    with pytest.raises(
        EnvironmentProblemError, match=r"could not download demo-pkg==1\.0: .*Check the network"
    ) as caught:
        fetch_package_file("demo-pkg", "1.0", MEMBER, SHA256)
    assert "\n" not in str(caught.value)


def test_a_missing_member_is_named(registry: Path) -> None:
    write_wheel(registry)
    with pytest.raises(StorageError, match=r"demo_pkg-1\.0.*has no file 'demo_pkg/other.csv'"):
        fetch_package_files("demo-pkg", "1.0", {MEMBER: SHA256, "demo_pkg/other.csv": SHA256})


def test_a_source_archive_serves_too(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "demo-pkg-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as source:
        info = tarfile.TarInfo(f"demo-pkg-1.0/{MEMBER}")
        info.size = len(CONTENT)
        source.addfile(info, io.BytesIO(CONTENT))
    # pip would build the archive's metadata, which needs a build backend: leave pip out.
    monkeypatch.setattr(packages, "_download", lambda *_: archive)
    assert fetch_package_file("demo-pkg", "1.0", MEMBER, SHA256).read_bytes() == CONTENT
