"""Publishing: whole or not at all, and held against its manifest when opened."""

import errno
import os
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from fedkim_ray.errors import EnvironmentProblemError, StorageError
from fedkim_ray.storage import (
    MANIFEST,
    Claim,
    Folder,
    beneath,
    copy_published,
    is_copied,
    is_published,
    open_published,
    publish,
    require_replaceable,
    require_unaltered,
)


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A folder that does not exist yet, on disk and in fsspec's object store in memory."""
    if request.param == "local":
        return Folder.at(tmp_path / "run")
    return Folder.at(f"memory://{uuid.uuid4().hex}/run")


def publish_two_files(folder: Folder) -> None:
    with publish(folder, "round", 1, seed=7) as out:
        out.write_json("report.json", {"loss": 0.5})
        (out / "deep").write_bytes("weights.bin", b"\x00\x01")


def test_brackets_in_a_folders_name_are_no_pattern(folder: Folder) -> None:
    named = folder / "St. Mary [2025]"
    (named / "deep").write_bytes("a.bin", b"a")
    (folder / "St. Mary 2").write_bytes("b.bin", b"b")
    assert named.glob("**/*.bin") == ["deep/a.bin"]


def test_what_was_published_opens_with_its_facts(folder: Folder) -> None:
    publish_two_files(folder)
    manifest = open_published(folder, "round", 1)
    assert manifest["seed"] == 7
    assert sorted(manifest["files"]) == ["deep/weights.bin", "report.json"]
    assert manifest["files"]["deep/weights.bin"]["size_bytes"] == 2
    assert folder.read_json("report.json") == {"loss": 0.5}


def test_the_manifest_comes_last(folder: Folder) -> None:
    def interrupted() -> None:
        with publish(folder, "round", 1) as out:
            out.write_bytes("part.bin", b"half of it")
            assert not is_published(folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not is_published(folder)
    with pytest.raises(StorageError, match="no published round"):
        open_published(folder, "round", 1)


def test_a_leftover_is_no_part_of_the_next_attempt(folder: Folder) -> None:
    folder.write_bytes("leftover.bin", b"from a run that was killed")
    publish_two_files(folder)
    assert sorted(open_published(folder, "round", 1)["files"]) == [
        "deep/weights.bin",
        "report.json",
    ]


def test_an_altered_byte_is_refused_with_the_files_name(folder: Folder) -> None:
    publish_two_files(folder)
    (folder / "deep").write_bytes("weights.bin", b"\x00\x02")
    with pytest.raises(StorageError, match=r"deep/weights\.bin' has SHA-256 .* manifest says"):
        open_published(folder, "round", 1)


def test_one_file_is_held_against_the_manifest_whatever_the_others_are(folder: Folder) -> None:
    publish_two_files(folder)
    (folder / "deep").write_bytes("weights.bin", b"\x00\x02")
    require_unaltered(folder, "report.json")
    with pytest.raises(StorageError, match=r"deep/weights\.bin' has SHA-256"):
        require_unaltered(folder, "deep/weights.bin")
    folder.write_bytes("late.bin", b"\x00")
    with pytest.raises(StorageError, match=r"late\.bin' has .* manifest says not listed"):
        require_unaltered(folder, "late.bin")
    with pytest.raises(StorageError, match=r"none\.bin' has SHA-256 no such file"):
        require_unaltered(folder, "none.bin")  # neither there nor listed


def test_a_lost_file_is_refused_with_its_name(folder: Folder) -> None:
    publish_two_files(folder)
    folder.fs.rm(folder.full("report.json"))
    with pytest.raises(StorageError, match=r"report\.json' has SHA-256 no such file"):
        open_published(folder, "round", 1)


@pytest.mark.parametrize(("kind", "version"), [("round", 2), ("bundle", 1)])
def test_another_kind_or_version_is_refused(folder: Folder, kind: str, version: int) -> None:
    publish_two_files(folder)
    with pytest.raises(
        StorageError, match=f"kind 'round' and format version 1.*reads a {kind} .*{version}"
    ):
        open_published(folder, kind, version)


def test_a_manifest_that_is_not_json_is_refused(folder: Folder) -> None:
    publish_two_files(folder)
    folder.write_bytes(MANIFEST, b"{")
    with pytest.raises(StorageError, match="is not JSON"):
        open_published(folder, "round", 1)


FOREIGN = [
    ("[]", "the whole: Input should be an object"),
    ('{"name": "a web page"}', "kind: Field required"),
    ('{"kind": "round", "format_version": 1}', "files: Field required"),
    ('{"kind": "round", "format_version": 1, "files": ["a"]}', "files: Input should be"),
    ('{"kind": "round", "format_version": 1, "files": {"a": {}}}', "files.a.sha256: Field"),
]


@pytest.mark.parametrize(("content", "fault"), FOREIGN)
def test_a_manifest_that_is_none_of_ours_is_refused(
    folder: Folder, content: str, fault: str
) -> None:
    folder.write_bytes(MANIFEST, content.encode())
    refusal = rf"manifest\.json' cannot be used: {fault}.* with kind, format_version, files"
    with pytest.raises(StorageError, match=refusal):
        open_published(folder, "round", 1)
    with pytest.raises(StorageError, match=refusal):
        is_copied(folder)


@pytest.mark.parametrize("content", ["{", *(content for content, _ in FOREIGN)])
def test_nothing_is_published_over_what_is_none_of_ours(folder: Folder, content: str) -> None:
    folder.write_bytes(MANIFEST, content.encode())
    with pytest.raises(StorageError, match=r"holds 'manifest\.json' and is no round"):
        require_replaceable(folder, "round")


def test_an_older_publication_may_be_replaced(folder: Folder) -> None:
    require_replaceable(folder, "round")
    publish_two_files(folder)
    require_replaceable(folder, "round")
    with pytest.raises(StorageError, match="and is no bundle"):
        require_replaceable(folder, "bundle")


def test_tensors_come_back_equal_even_where_they_shared_memory(folder: Folder) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    folder.write_tensors("t.safetensors", {"whole": whole, "turned": whole.T})
    came = folder.read_tensors("t.safetensors")
    assert torch.equal(came["whole"], whole)
    assert torch.equal(came["turned"], whole.T)


def test_lines_are_appended_in_order(folder: Folder) -> None:
    folder.append_line("log.jsonl", "first")
    folder.append_line("log.jsonl", "second")
    assert folder.read_bytes("log.jsonl") == b"first\nsecond\n"


def test_a_line_that_was_cut_off_does_not_spoil_the_next(folder: Folder) -> None:
    folder.write_bytes("log.jsonl", b"first\nsec")
    folder.append_line("log.jsonl", "third")
    folder.append_line("log.jsonl", "fourth")
    assert folder.read_bytes("log.jsonl") == b"first\nsec\nthird\nfourth\n"


def test_names_lists_what_lies_directly_inside(folder: Folder) -> None:
    assert folder.names() == []
    publish_two_files(folder)
    assert folder.names() == ["deep", MANIFEST, "report.json"]


def test_a_missing_file_is_named(folder: Folder) -> None:
    with pytest.raises(StorageError, match=r"no file .*absent\.json"):
        folder.read_json("absent.json")


def test_a_url_leads_back_to_its_folder(folder: Folder) -> None:
    publish_two_files(folder)
    assert is_published(Folder.at(folder.url))


def test_a_package_that_is_missing_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as where it is not installed
    monkeypatch.delitem(fsspec.registry, "s3", raising=False)
    with pytest.raises(EnvironmentProblemError, match=r"s3fs.*constraints\.txt '\.\[s3\]'"):
        Folder.at("s3://bucket/run")


def test_a_protocol_that_nobody_knows_is_named() -> None:
    with pytest.raises(StorageError, match=r"'s4://bucket/run' cannot be opened.*s3://BUCKET"):
        Folder.at("s4://bucket/run")


def test_a_url_that_lacks_a_part_is_named() -> None:
    with pytest.raises(StorageError, match=r"'github://a/b' cannot be opened.*org.*s3://BUCKET"):
        Folder.at("github://a/b")


class NoCredentialsError(Exception):
    """What an object store's library raises, and no OSError."""


class LockedFileSystem(MemoryFileSystem):
    """An object store whose every answer is that error."""

    protocol = "locked"

    def _refuse(self, *args: object, **kwargs: object) -> None:
        raise NoCredentialsError("Unable to locate credentials.\nSee its manual.")

    exists = glob = cat_file = open = makedirs = pipe_file = rm = rm_file = _refuse


class UnreachableFileSystem(MemoryFileSystem):
    """An object store that asks its server for something as soon as it is named."""

    protocol = "unreachable"

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise NoCredentialsError("Unable to locate credentials.\nSee its manual.")


for store in (LockedFileSystem, UnreachableFileSystem):
    fsspec.register_implementation(store.protocol, store, clobber=True)
REASON = r"cannot be {}: NoCredentialsError: Unable to locate credentials\. .* permissions"


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: folder.exists(),
        lambda folder: folder.names(),
        lambda folder: folder.glob("*.parquet"),
        lambda folder: folder.read_bytes("run.json"),
        lambda folder: folder.sha256("run.json"),
        lambda folder: open_published(folder, "bundle", 1),
        lambda folder: Folder.at("unreachable://bucket"),
    ],
)
def test_a_store_that_gives_no_access_is_told(read: Callable[[Folder], object]) -> None:
    with pytest.raises(EnvironmentProblemError, match=REASON.format("read")) as caught:
        read(Folder.at("locked://bucket/run"))
    assert type(beneath(caught.value)) is NoCredentialsError


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: folder.write_bytes("state.bin", b"new"),
        lambda folder: folder.append_line("log.jsonl", "{}"),
        lambda folder: folder.remove("abort.json"),
        lambda folder: folder.require_writable(),
    ],
)
def test_a_store_that_takes_nothing_is_told(write: Callable[[Folder], None]) -> None:
    with pytest.raises(EnvironmentProblemError, match=REASON.format("written")):
        write(Folder.at("locked://bucket/run"))


def test_a_file_of_somebody_else_is_told(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, mode: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    publish_two_files(folder)
    monkeypatch.setattr(folder.fs, "open", refuse)
    with pytest.raises(EnvironmentProblemError, match="cannot be read: Permission denied"):
        open_published(folder, "round", 1)


def test_a_folder_is_no_file(folder: Folder) -> None:
    (folder / "run.json").write_bytes("a.bin", b"a")
    with pytest.raises(StorageError, match=r"There is no file .*run\.json"):
        folder.read_json("run.json")


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder.at(tmp_path)
    folder.write_bytes("state.bin", b"old")

    def full_disk(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(EnvironmentProblemError, match="No space left"):
        folder.write_bytes("state.bin", b"new and longer")
    assert folder.read_bytes("state.bin") == b"old"
    assert folder.names() == ["state.bin"]


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: folder.write_bytes("state.bin", b"new"),
        lambda folder: folder.append_line("log.jsonl", "{}"),
        publish_two_files,
    ],
)
def test_a_place_where_nothing_can_be_written_is_said(
    tmp_path: Path, write: Callable[[Folder], None]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentProblemError, match=r"file/run.* cannot be written: Not a dir"):
        write(Folder.at(tmp_path / "file/run"))


def test_a_claimed_folder_takes_publications_of_the_last_claim_alone(folder: Folder) -> None:
    claimed = Folder.at(folder.url, Claim(folder.url, "mine")) / "round"
    folder.write_json("driver.json", {"token": "mine"})
    publish_two_files(claimed)
    for record in ({"token": "another's"}, None):
        if record:
            folder.write_json("driver.json", record)
        else:
            folder.fs.rm(folder.full("driver.json"))
        with pytest.raises(StorageError, match="Another driver took over this run"):
            publish_two_files(claimed)
        assert is_published(claimed)  # the last publication is still there


def test_a_claim_that_is_lost_while_files_are_written_names_none_of_them(folder: Folder) -> None:
    folder.write_json("driver.json", {"token": "mine"})
    claimed = Folder.at(folder.url, Claim(folder.url, "mine")) / "round"

    def publish_too_late() -> None:
        with publish(claimed, "round", 1) as out:
            out.write_json("x.json", [1])
            folder.write_json("driver.json", {"token": "another's"})

    with pytest.raises(StorageError, match="Another driver took over this run"):
        publish_too_late()
    assert not is_published(claimed)


def test_a_published_folder_is_copied_whole(tmp_path: Path) -> None:
    source, target = Folder.at(tmp_path / "a"), Folder.at(tmp_path / "b")
    with publish(source, "round", 1, step=3) as out:
        out.write_json("x/y.json", [1])
    copy_published(source, target, "round", 1)
    told = {**open_published(source, "round", 1), "copied_from": source.url}
    assert open_published(target, "round", 1) == told
    assert (is_copied(source), is_copied(target)) == (False, True)
    assert target.read_json("x/y.json") == [1]


def test_what_was_altered_is_not_copied(tmp_path: Path) -> None:
    source, target = Folder.at(tmp_path / "a"), Folder.at(tmp_path / "b")
    with publish(source, "round", 1) as out:
        out.write_json("x.json", [1])
    source.write_json("x.json", [2])
    with pytest.raises(StorageError, match="altered"):
        copy_published(source, target, "round", 1)
    assert not target.exists()


def test_a_publications_manifest_goes_before_its_files(tmp_path: Path, monkeypatch) -> None:
    folder = Folder.at(tmp_path / "round")
    with publish(folder, "round", 1) as out:
        out.write_bytes("params", b"1")

    def killed(path: str, recursive: bool = False) -> None:
        if recursive:
            raise KeyboardInterrupt
        os.remove(path)

    monkeypatch.setattr(folder.fs, "rm", killed)
    with pytest.raises(KeyboardInterrupt), publish(folder, "round", 1):
        pass
    assert folder.exists("params")
    assert not is_published(folder)
