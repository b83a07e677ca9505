"""Tables larger than memory, on this machine's disk and mapped into the address space.

What is mapped is read page by page when it is used, and the system takes the pages back when it
needs them: a set of any size can be shuffled row by row, in the order of one that fits. The file
has no name, so it is gone with its process however that ends, and nobody else can open it.
"""

import mmap
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import pyarrow as pa

from fedkim_ray.data.packages import scratch_dir
from fedkim_ray.errors import EnvironmentProblemError

MAPPED_FROM_BYTES = 64 << 20
"""Tables below this size stay in memory."""


def gather(parts: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Return tables end to end, mapped from disk where they are large.

    Args:
        parts: Tables of ``schema``, each small.
        schema: Of all of them.

    Raises:
        EnvironmentProblemError: there is no room on the disk.
    """
    parts, held, size_bytes = iter(parts), [schema.empty_table()], 0
    for part in parts:
        held.append(part)
        size_bytes += part.nbytes
        if size_bytes > MAPPED_FROM_BYTES:
            return _map(_without(held, parts), schema)
    return pa.concat_tables(held).combine_chunks()


def _without(held: list[pa.Table], rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield both, and forget what was yielded."""
    return chain((held.pop(0) for _ in range(len(held))), rest)


def _map(parts: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    folder = scratch_dir() / "mapped"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:  # it never has a name
            with pa.ipc.new_file(file, schema) as writer:
                for part in parts:
                    writer.write_table(part.combine_chunks())
            file.flush()
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise _no_room(folder, error) from None
    return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(pages))).read_all()


def _no_room(folder: Path, error: OSError) -> EnvironmentProblemError:
    return EnvironmentProblemError(
        f"A data set cannot be laid out on disk in {str(folder)!r}: {error}.",
        "A set that is too large for memory is mapped from there, unpacked.",
        "Free some space, or name another folder with FEDKIM_SCRATCH.",
    )
