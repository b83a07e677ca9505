"""Tables as text."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.manifest.tables import text_batches


def test_whole_floats_are_written_as_whole_numbers(tmp_path: Path) -> None:
    values = [17.0, 12345678901.0, 0.5, None, float("inf")]
    pq.write_table(pa.table({"who": values}), tmp_path / "t.parquet")
    [batch] = text_batches(SourceFiles.at(str(tmp_path)), "t.parquet", ["who"])
    assert batch["who"].to_pylist() == ["17", "12345678901", "0.5", None, "inf"]
