"""Hold a source against the layout that its importer expects, before hours of work."""

import io
import json
import zlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from fedkim_ray.data.importing.contract import Expected
from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.importing.remote import answering
from fedkim_ray.errors import DataError, RowRejectedError

HEAD_BYTES = 1 << 20
"""How much of a table is read to see its columns."""
UNREADABLE = (pa.ArrowException, OSError, EOFError, ValueError, RowRejectedError, zlib.error)
"""What reading a table raises that is cut, empty, none or of another encoding."""
STAMPS = ("size", "mtime", "LastModified", "last_modified", "ETag", "etag", "created")


def check_layout(files: SourceFiles, layout: Sequence[Expected]) -> list[str]:
    """Return what the source lacks, one sentence each; empty if nothing."""
    with answering(files.folder):
        if not files.folder.exists():
            return [f"there is no folder {files.folder.url!r}"]
        return [problem for expected in layout for problem in _problems(files, expected)]


def require_layout(files: SourceFiles, layout: Sequence[Expected], name: str) -> None:
    """Refuse a source that lacks a file or a column.

    Raises:
        DataError: naming all that is missing.
    """
    if problems := check_layout(files, layout):
        raise DataError(
            f"{files.folder.url!r} cannot be imported as {name}: {'; '.join(problems)}.",
            "The source has the layout in which its owner ships it.",
            f"`fedkim data import {name} --check --src URL` lists what is expected.",
        )


def source_state(files: SourceFiles, layout: Sequence[Expected]) -> list[list[str]]:
    """Return name, size and time of every file of the layout: what an import depends on."""
    state = []
    for expected in layout:
        found = files.folder.fs.glob(files.folder.pattern(expected.pattern), detail=True)
        for path, info in sorted(found.items()):
            state.append([path, *(str(info[s]) for s in STAMPS if s in info)])
    return state


def _problems(files: SourceFiles, expected: Expected) -> list[str]:
    names = files.glob(expected.pattern)
    if len(names) < expected.at_least:
        wanted = "no file" if not names else f"only {len(names)} files"
        return [f"{wanted} {expected.pattern!r} (expected {expected.at_least} or more)"]
    if not expected.columns:
        return []
    problems = []
    for name in names:
        try:
            present = columns_of_file(files, name)
        except TimeoutError:
            raise
        except UNREADABLE:
            problems.append(f"{name!r} cannot be read as a table")
            continue
        if missing := [c for c in expected.columns if c not in present]:
            problems.append(f"{name!r} lacks the column {', '.join(map(repr, missing))}")
    return problems


def columns_of_file(files: SourceFiles, name: str) -> list[str]:
    """Return the columns of a CSV or Parquet table, or the keys of a JSON list's first object."""
    plain = name.removesuffix(".gz")
    if plain.endswith(".parquet"):
        with files.folder.fs.open(files.folder.full(files.safe(name)), "rb") as raw:
            return list(pq.read_schema(raw).names)
    with files.open(name) as raw:
        if plain.endswith(".json"):
            return _first_keys(json.load(raw))
        if plain.endswith(".jsonl"):
            return list(json.loads(raw.readline()))
        head = raw.read(HEAD_BYTES)
    return _csv_header(head)


def _csv_header(head: bytes) -> list[str]:
    line = head.split(b"\n", 1)[0]
    parsing = pyarrow.csv.ParseOptions(delimiter=sniff_delimiter(head))
    reader = pyarrow.csv.open_csv(io.BytesIO(line + b"\n"), parse_options=parsing)
    return list(reader.schema.names)


def sniff_delimiter(head: bytes) -> str:
    """Return which of comma, semicolon and tab the header has most of."""
    line = head.split(b"\n", 1)[0].decode("utf-8", "replace")
    return max(",;\t", key=line.count)


def _first_keys(value: Any) -> list[str]:
    first = value[0] if isinstance(value, list) and value else value
    return list(first) if isinstance(first, dict) else []
