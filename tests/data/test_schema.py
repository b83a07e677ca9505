"""The contract of the sample table: what breaks it is named by file, column and row."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedkim_ray.data.schema import (
    METADATA_KEY,
    DataSpec,
    FeatureSpec,
    SeriesSpec,
    SignalSpec,
    join_tables,
    read_samples,
    sample_table,
    write_samples,
)
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder

SPEC = DataSpec(
    signal=SignalSpec(leads=("I", "II"), num_samples=3),
    series={
        "vital": SeriesSpec(
            hours=2, features=(FeatureSpec(name="hrt", unit="1/min", low=20, high=300),)
        )
    },
)
SIGNAL = np.arange(6, dtype=np.float32).reshape(2, 3)


def row(index: int, **values: Any) -> dict[str, Any]:
    words = {"task": "ecg_abnormal", "question": "Is it?", "answer": "No", "label": 0}
    return {"sample_id": f"s{index}", "subject_id": f"p{index}", **words, **values}


def write(folder: Path, table: pa.Table) -> Folder:
    root = Folder.at(folder)
    write_samples(root, "part-0.parquet", table)
    return root


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    table = sample_table([row(0, signal=SIGNAL), row(1)], SPEC)
    back = read_samples(write(tmp_path, table), "part-0.parquet", SPEC)
    assert back.equals(table)
    assert back["signal"].is_valid().to_pylist() == [True, False]
    np.testing.assert_array_equal(back["signal"][0].as_py(), SIGNAL.ravel())


def test_a_column_that_no_row_has_is_left_out() -> None:
    names = sample_table([row(0, signal=SIGNAL)], SPEC).column_names
    assert "signal" in names
    assert not {"vital", "vital_mask", "text"} & set(names)


def test_joined_tables_have_the_columns_of_both() -> None:
    vital = {"vital": np.ones((2, 1), np.float32), "vital_mask": np.ones((2, 1), np.uint8)}
    tables = [sample_table([row(0, signal=SIGNAL)], SPEC), sample_table([row(1, **vital)], SPEC)]
    joined = join_tables(tables, SPEC)
    assert joined["signal"].is_valid().to_pylist() == [True, False]
    assert joined["vital"].is_valid().to_pylist() == [False, True]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_refused_by_file_row_and_column(tmp_path: Path, bad: float) -> None:
    broken = SIGNAL.copy()
    broken[1, 2] = bad
    # Row 1 has no signal, so the broken one is the second that is present but row 2.
    rows = [row(0, signal=SIGNAL), row(1), row(2, signal=broken)]
    folder = write(tmp_path, sample_table(rows, SPEC))
    with pytest.raises(DataError, match=r"part-0\.parquet', row 2, column 'signal' is NaN"):
        read_samples(folder, "part-0.parquet", SPEC)


def test_a_label_other_than_0_and_1_is_refused(tmp_path: Path) -> None:
    table = sample_table([row(0), row(1, label=None), row(2, label=2)], SPEC)
    with pytest.raises(DataError, match=r"row 2, column 'label' is neither 0 nor 1") as caught:
        read_samples(write(tmp_path, table), "part-0.parquet", SPEC)
    assert "2" not in caught.value.expected, "the text holds no value of the data"


@pytest.mark.parametrize(
    ("name", "bad", "good"), [("sex", "Female", "female"), ("age_years", 300, 90)]
)
def test_a_trait_that_groups_nobody_is_refused(
    tmp_path: Path, name: str, bad: object, good: object
) -> None:
    folder = write(tmp_path, sample_table([row(0, **{name: good}), row(1, **{name: bad})], SPEC))
    with pytest.raises(DataError, match=rf"row 1, column '{name}'"):
        read_samples(folder, "part-0.parquet", SPEC)


def test_a_missing_column_is_refused(tmp_path: Path) -> None:
    table = sample_table([row(0)], SPEC).drop_columns("subject_id")
    with pytest.raises(DataError, match=r"part-0\.parquet' has no column 'subject_id'"):
        read_samples(write(tmp_path, table), "part-0.parquet", SPEC)


def test_an_empty_required_value_is_refused(tmp_path: Path) -> None:
    table = sample_table([row(0), row(1)], SPEC)
    at = table.column_names.index("answer")
    table = table.set_column(at, "answer", pa.array(["No", None]))
    with pytest.raises(DataError, match="row 1, column 'answer' is empty"):
        read_samples(write(tmp_path, table), "part-0.parquet", SPEC)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, sample_table([row(0)], SPEC))
    path = tmp_path / "part-0.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"part-0\.parquet' cannot be read as Parquet"):
        read_samples(folder, "part-0.parquet", SPEC)


def test_a_file_that_is_not_there_stays_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_samples(Folder.at(tmp_path), "part-9.parquet", SPEC)


def test_a_wrong_shape_is_refused_before_writing() -> None:
    with pytest.raises(DataError, match=r"Row 1, column 'signal' has the shape \(3, 2\)"):
        sample_table([row(0, signal=SIGNAL), row(1, signal=SIGNAL.T)], SPEC)


def test_a_wrong_shape_in_a_file_is_refused(tmp_path: Path) -> None:
    table = sample_table([row(0, signal=SIGNAL)], SPEC)
    at = table.column_names.index("signal")
    other = pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((1, 2, 4), np.float32))
    with pytest.raises(DataError, match=r"column 'signal' is of type .*shape=\[2,4\]"):
        read_samples(write(tmp_path, table.set_column(at, "signal", other)), "part-0.parquet", SPEC)


def test_another_specification_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, sample_table([row(0, signal=SIGNAL)], SPEC))
    other = SPEC.model_copy(update={"signal": SignalSpec(leads=("I", "III"), num_samples=3)})
    with pytest.raises(DataError, match="another specification of 'signal'"):
        read_samples(folder, "part-0.parquet", other)


@pytest.mark.parametrize("metadata", [{}, {METADATA_KEY: json.dumps({"format_version": 9})}])
def test_another_format_version_is_refused(tmp_path: Path, metadata: dict[bytes, str]) -> None:
    table = sample_table([row(0)], SPEC).replace_schema_metadata(metadata)
    version = "9" if metadata else "None"
    with pytest.raises(DataError, match=f"sample-table version {version}"):
        read_samples(write(tmp_path, table), "part-0.parquet", SPEC)


def test_plain_parquet_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "part-0.parquet")
    with pytest.raises(DataError, match="sample-table version None"):
        read_samples(Folder.at(tmp_path), "part-0.parquet", SPEC)


def test_shapes() -> None:
    assert SPEC.shape("signal") == (2, 3)
    assert SPEC.shape("vital") == (2, 1)
    assert SPEC.modalities == ("signal", "vital")
    with pytest.raises(DataError, match=r"no modality 'lab'.*They have signal, vital"):
        SPEC.shape("lab")
