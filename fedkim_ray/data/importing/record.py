"""What an import leaves beside the data, in ``imports/<name>/``.

``import.json`` says what was done; ``rejected.parquet`` has a row for all that could not be used.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from fedkim_ray.data.importing.split import SplitRule
from fedkim_ray.data.root import DatasetCard, Source
from fedkim_ray.data.schema import DataSpec, merge_specs
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder
from fedkim_ray.types import Frozen

FOLDER = "imports"
RECORD = "import.json"
REJECTED = "rejected.parquet"
REJECTED_SCHEMA = pa.schema(
    [
        pa.field("item", pa.string(), nullable=False),
        pa.field("row", pa.int64()),
        pa.field("column", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
    ],
    metadata={"format_version": "1"},
)
"""``item`` is the keyed hash of the place in the source: a file's name may name a patient."""


class Origin(Frozen):
    """What an import is made from."""

    importer: str
    options: dict[str, Any]
    source_at: str
    """SHA-256 of the source's URL: a folder's name may name somebody."""
    key_fingerprint: str

    def differences(self, other: "Origin") -> list[str]:
        """Return in what two differ, in words."""
        words = {
            "importer": "importer",
            "options": "mapping" if self.importer == "manifest" else "set of options",
            "source_at": "source",
            "key_fingerprint": "key",
        }
        return [w for field, w in words.items() if getattr(self, field) != getattr(other, field)]


class ImportRecord(Origin):
    """One import into a data root; holds no value of the data."""

    format_version: Literal[2] = 2
    name: str
    """Of its files and its record; two imports of a root differ in it."""
    fingerprint: str
    """SHA-256 over the source's files, the options and the rule: equal ones give equal roots."""
    rule: SplitRule
    subjects_of: str
    """Name of the numbering of subjects: imports of the same one have the same people."""
    source: Source
    spec: DataSpec
    """Of the modalities that it carries; scales are of its own public rows."""
    counts: dict[str, dict[str, int]]
    """Examples by place and task."""
    num_rows: int
    """Rows that were read, without the rejected ones."""
    rejected: dict[str, int]
    """By reason."""
    left_out: dict[str, int]
    """Rows that are not used though nothing is wrong with them, by reason."""
    out_of_range: dict[str, int]
    """Impossible values that count as missing, by feature."""


def read_records(root: Folder) -> dict[str, ImportRecord]:
    """Return the records of all imports into a root, by name.

    Raises:
        DataError: a record does not parse.
    """
    records = {}
    for name in (root / FOLDER).names():
        path = f"{FOLDER}/{name}/{RECORD}"
        if not root.exists(path):
            continue
        try:
            records[name] = ImportRecord.model_validate(root.read_json(path))
        except ValidationError:
            raise DataError(
                f"{root.full(path)!r} cannot be used.",
                "It is written by `fedkim data import` of this release.",
                "Import the data again into a new folder.",
            ) from None
    return records


def write_record(root: Folder, record: ImportRecord, rejections: Sequence[dict[str, Any]]) -> None:
    """Write what was rejected, then the record."""
    folder = root / FOLDER / record.name
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rejections), REJECTED_SCHEMA), sink)
    folder.write_bytes(REJECTED, sink.getvalue().to_pybytes())
    folder.write_bytes(RECORD, record.model_dump_json(indent=1).encode())


def remove_record(root: Folder, name: str) -> None:
    """Forget an import, before its files go."""
    root.fs.rm_file(root.full(f"{FOLDER}/{name}/{RECORD}"))


def merged_spec(records: Iterable[ImportRecord]) -> DataSpec:
    """Return the specification of a root.

    Scales are of the first import, by name, that has public rows; else of the first.

    Raises:
        DataError: two imports differ in shape or unit.
    """
    merged = DataSpec()
    for record in sorted(records, key=lambda r: ("public" not in r.counts, r.name)):
        merged = merge_specs(merged, record.spec)
    return merged


def card_of(records: Iterable[ImportRecord]) -> DatasetCard:
    """Return the card of a root with these imports, without files.

    Raises:
        DataError: two imports differ in shape or unit.
    """
    by_name = sorted(records, key=lambda r: r.name)
    return DatasetCard(
        name="+".join(r.name for r in by_name),
        sources=tuple(r.source for r in by_name),
        spec=merged_spec(by_name),
        seed=by_name[0].rule.seed,
        split_rule="; ".join(f"{r.name}: {r.rule}" for r in by_name),
    )


def count_reasons(rejections: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how often each reason occurs, the most frequent first."""
    return dict(Counter(r["reason"] for r in rejections).most_common())
