"""Tables divided by patient."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from fedkim_ray.data.importing.buckets import bucket_of, fill_buckets, num_buckets_for, read_bucket
from fedkim_ray.errors import DataError


def test_a_patient_is_in_one_bucket_whole_and_in_order(tmp_path: Path) -> None:
    table = pa.table({"who": [str(i % 7) for i in range(70)], "v": list(range(70))})
    fill_buckets([table.slice(0, 33), table.slice(33)], "who", 3, tmp_path, "t")
    parts = [read_bucket(tmp_path, bucket, "t", table.schema) for bucket in range(3)]
    assert sum(part.num_rows for part in parts) == 70
    for who in map(str, range(7)):
        [mine] = [p for p in parts if who in p["who"].to_pylist()]
        values = [v for w, v in zip(*mine.to_pydict().values(), strict=True) if w == who]
        assert values == list(range(int(who), 70, 7))


def test_numbers_and_texts_of_one_key_share_a_bucket() -> None:
    numbers, texts = pa.array([1, 22, None]), pa.array(["1", "22", None])
    assert bucket_of(numbers, 5).tolist() == bucket_of(texts, 5).tolist()


def test_a_number_with_a_point_and_without_share_a_bucket() -> None:
    assert len(set(bucket_of(pa.array(["17", "17.0", "17."]), 1000).tolist())) == 1


def test_blanks_around_a_key_do_not_count() -> None:
    padded = pa.array(["V1  ", "V1", " V1", "", None, "  "])
    one, *ones, none, null, blank = bucket_of(padded, 100).tolist()
    assert ones == [one, one]
    assert none == null == blank != one


def test_an_empty_bucket_has_the_columns(tmp_path: Path) -> None:
    schema = pa.schema([("who", pa.string())])
    fill_buckets([], "who", 1, tmp_path, "t")
    assert read_bucket(tmp_path, 0, "t", schema).column_names == ["who"]


def test_buckets_that_are_gone_are_not_taken_for_empty(tmp_path: Path) -> None:
    table = pa.table({"who": ["1"]})
    fill_buckets([table], "who", 1, tmp_path / "scratch", "t")
    shutil.rmtree(tmp_path / "scratch")
    with pytest.raises(DataError, match="divided table 't' is gone"):
        read_bucket(tmp_path / "scratch", 0, "t", table.schema)


def test_the_number_of_buckets_follows_the_size() -> None:
    assert [num_buckets_for(n) for n in (0, 1, 32 << 20, (32 << 20) + 1)] == [1, 1, 1, 2]
