"""Tables as text."""

import gzip
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.manifest.tables import text_batches
from fedkim_ray.errors import DataError


def test_whole_floats_are_written_as_whole_numbers(tmp_path: Path) -> None:
    values = [17.0, 12345678901.0, 0.5, None, float("inf")]
    pq.write_table(pa.table({"who": values}), tmp_path / "t.parquet")
    [batch] = text_batches(SourceFiles.at(str(tmp_path)), "t.parquet", ["who"])
    assert batch["who"].to_pylist() == ["17", "12345678901", "0.5", None, "inf"]


HEADER, ROWS = "who,größe\n", "17,1\n"
LONG = "who\n" + "\n".join(str(random.Random(i).random()) for i in range(200_000))
"""More than the head in which the columns are looked for, and no pattern to compress."""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latin1.csv", (HEADER + ROWS).encode("latin-1")),
        ("utf16.csv", (HEADER + ROWS).encode("utf-16")),
        ("empty.csv", b""),
        ("empty.jsonl", b""),
        ("plain.csv.gz", (HEADER + ROWS).encode()),
        ("cut.csv.gz", gzip.compress((HEADER + ROWS).encode())[:-20]),
        ("cut-late.csv.gz", gzip.compress(LONG.encode())[:-20]),
        ("cut-late.jsonl.gz", gzip.compress(b'{"who": 17}\n' * 9)[:-10]),
        ("broken.parquet", b"PAR1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_table_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"'{name}' cannot be read as a table"):
        list(text_batches(SourceFiles.at(str(tmp_path)), name, ["who"]))
