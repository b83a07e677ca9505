"""The sample table: one row an example, the same in every data set of the method.

Columns ``sample_id, subject_id, task, question, answer`` are always there; ``label``, ``text``
and one column a modality where the task has them; ``sex, age_years, site`` where a test row's
source states them. Images are encoded bytes (PNG or JPEG);
signals and time series are fixed-shape float32 tensors, and a time series has a mask beside it
that says what was observed. Units, sampling rate, lead and feature names lie in the schema's
metadata as a ``DataSpec``. This module is the only place that knows all this.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from fedkim_ray.data.modalities import SERIES
from fedkim_ray.data.traits import MAX_AGE_YEARS, SEXES
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder
from fedkim_ray.types import Frozen, Modality

FORMAT_VERSION = 1
METADATA_KEY = b"fedkim"
REQUIRED = ("sample_id", "subject_id", "task", "question", "answer")
TRAITS = pa.schema([("sex", pa.string()), ("age_years", pa.int16()), ("site", pa.string())])
"""Whom a test question is about, for results by subgroup; null where the source does not say."""


class ImageSpec(Frozen):
    """A grey image, scaled to a square."""

    size_px: PositiveInt = 64


class SignalSpec(Frozen):
    """An ECG of a fixed length, in millivolt."""

    leads: tuple[str, ...] = Field(min_length=1)
    sampling_rate_hz: PositiveFloat = 100.0
    num_samples: PositiveInt = 1000
    unit: str = "mV"


class FeatureSpec(Frozen):
    """One row of a time series."""

    name: str
    unit: str
    low: float
    """Smallest physiologically possible value, in ``unit``; importers refuse smaller ones."""
    high: float
    center: float = 0.0
    """Subtracted before encoding; the mean over the public training data."""
    scale: PositiveFloat = 1.0
    """Divided by before encoding; the standard deviation over the public training data."""


class SeriesSpec(Frozen):
    """A table of hours x features."""

    features: tuple[FeatureSpec, ...] = Field(min_length=1)
    hours: PositiveInt = 24


class DataSpec(Frozen):
    """Shapes and units of every modality; the same for all files of a data root."""

    image: ImageSpec | None = None
    signal: SignalSpec | None = None
    series: dict[Modality, SeriesSpec] = Field(default_factory=dict)

    def shape(self, modality: Modality) -> tuple[int, ...]:
        """Return the shape of one stored array: (leads, samples) or (hours, features)."""
        if modality == "signal" and self.signal is not None:
            return (len(self.signal.leads), self.signal.num_samples)
        if modality in self.series:
            return (self.series[modality].hours, len(self.series[modality].features))
        raise DataError(
            f"The data have no modality {modality!r}.",
            f"They have {', '.join(self.modalities) or 'none'}.",
            "Leave out the tasks that need it, or import data that carry it.",
        )

    @property
    def layout(self) -> "DataSpec":
        """The same without the scales of features: all that a file's bytes depend on."""
        plain = {m: _without_scales(series) for m, series in self.series.items()}
        return self.model_copy(update={"series": plain})

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Encoded modalities that the data carry, in the fixed order."""
        image = ("image",) if self.image else ()
        signal = ("signal",) if self.signal else ()
        return (*image, *signal, *(m for m in SERIES if m in self.series))


def _without_scales(series: SeriesSpec) -> SeriesSpec:
    plain = {"center": 0.0, "scale": 1.0}
    features = tuple(feature.model_copy(update=plain) for feature in series.features)
    return series.model_copy(update={"features": features})


def arrow_schema(spec: DataSpec) -> pa.Schema:
    """Return the schema of a sample table with every modality of ``spec``."""
    fields = [pa.field(name, pa.string(), nullable=False) for name in REQUIRED]
    fields += [pa.field("label", pa.int8()), pa.field("text", pa.string()), *TRAITS]
    if spec.image:
        fields.append(pa.field("image", pa.binary()))
    if spec.signal:
        fields.append(pa.field("signal", pa.fixed_shape_tensor(pa.float32(), spec.shape("signal"))))
    for modality in spec.series:
        shape = spec.shape(modality)
        fields.append(pa.field(modality, pa.fixed_shape_tensor(pa.float32(), shape)))
        fields.append(pa.field(f"{modality}_mask", pa.fixed_shape_tensor(pa.uint8(), shape)))
    facts = {"format_version": FORMAT_VERSION, "spec": json.loads(spec.model_dump_json())}
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(facts).encode()})


def sample_table(
    rows: Iterable[Mapping[str, Any]], spec: DataSpec, columns: Iterable[str] | None = None
) -> pa.Table:
    """Build a sample table from plain rows.

    A column that some rows lack is null there; one that all rows lack is left out, because a null
    tensor takes as much memory as a value.

    Args:
        rows: Values by column name; arrays are numpy, shaped as ``DataSpec.shape`` says.
        spec: Shapes and units.
        columns: Columns beside the required ones, present even where all rows lack them; those
            that a row carries where None.

    Raises:
        DataError: an array has another shape than ``spec`` says.
    """
    rows = list(rows)
    schema = arrow_schema(spec)
    if columns is None:
        columns = {name for row in rows for name, value in row.items() if value is not None}
    carried = set(columns)
    fields = [field for field in schema if field.name in carried or field.name in REQUIRED]
    columns = [_column([row.get(field.name) for row in rows], field) for field in fields]
    return pa.table(columns, schema=pa.schema(fields, metadata=schema.metadata))


def join_tables(tables: Sequence[pa.Table], spec: DataSpec) -> pa.Table:
    """Put sample tables end to end, with every column that any of them has."""
    schema = joined_schema({name for table in tables for name in table.column_names}, spec)
    return pa.concat_tables([fit_columns(table, schema) for table in tables])


def joined_schema(names: Collection[str], spec: DataSpec) -> pa.Schema:
    """Return the schema of a sample table with these columns."""
    schema = arrow_schema(spec)
    return pa.schema([f for f in schema if f.name in names], metadata=schema.metadata)


def fit_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a sample table with the columns of ``schema``, null where it lacks them."""
    return pa.table([_present_or_null(table, field) for field in schema], schema=schema)


def _present_or_null(table: pa.Table, field: pa.Field) -> pa.Array | pa.ChunkedArray:
    if field.name in table.column_names:
        return table[field.name]
    if isinstance(field.type, pa.FixedShapeTensorType):
        nulls = pa.nulls(table.num_rows, field.type.storage_type)
        return pa.ExtensionArray.from_storage(field.type, nulls)
    return pa.nulls(table.num_rows, field.type)


def _column(values: list[Any], field: pa.Field) -> pa.Array:
    if not isinstance(field.type, pa.FixedShapeTensorType):
        return pa.array(values, field.type)
    shape = tuple(field.type.shape)
    for row, value in enumerate(values):
        if value is not None and np.shape(value) != shape:
            raise DataError(
                f"Row {row}, column {field.name!r} has the shape {np.shape(value)}.",
                f"The data's specification says {shape}.",
                "Resample or pad the array before building the table.",
            )
    flat = [None if value is None else np.asarray(value).ravel() for value in values]
    storage = pa.array(flat, field.type.storage_type)
    return pa.ExtensionArray.from_storage(field.type, storage)


def write_samples(folder: Folder, name: str, table: pa.Table) -> None:
    """Write a sample table as Parquet, whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=1024, compression="zstd")
    folder.write_bytes(name, sink.getvalue().to_pybytes())


def read_samples(
    folder: Folder, name: str, spec: DataSpec, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read a sample table and hold it against its contract.

    Args:
        folder: Where it is.
        name: The file.
        spec: Shapes and units that it must have.
        columns: Columns to read, of those that the file has; all where None.

    Raises:
        DataError: the file is no Parquet, of another format version or specification, lacks a
            column, or a row breaks the contract. The text names file, row and column, never a
            value.
    """
    with open_samples(folder, name, spec) as file:
        table = file.read(present_columns(file, columns))
    check_rows(folder.full(name), table)
    return table


def present_columns(file: pq.ParquetFile, columns: Sequence[str] | None) -> list[str] | None:
    """Return those of the columns that the file has; None stands for all."""
    return None if columns is None else [c for c in columns if c in file.schema_arrow.names]


def sample_columns(modalities: Iterable[Modality]) -> list[str]:
    """Return the columns that say who, what and which label, and those of some modalities."""
    names = [*REQUIRED, "label", "text", *TRAITS.names]
    return [*names, *(c for m in modalities if m != "text" for c in (m, f"{m}_mask"))]


@contextmanager
def open_samples(folder: Folder, name: str, spec: DataSpec) -> Iterator[pq.ParquetFile]:
    """Open a sample table, its columns, shapes and units checked.

    Raises:
        DataError: the file is no whole Parquet file, or its schema breaks the contract.
    """
    path = folder.full(name)
    try:
        with folder.fs.open(path, "rb") as raw, pq.ParquetFile(raw) as file:
            check_schema(path, file.schema_arrow, spec)
            yield file
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise DataError(
            f"{path!r} cannot be read as Parquet ({type(error).__name__}).",
            "A sample table is a whole Parquet file.",
            "It is truncated or of another format: import it again.",
        ) from None


def check_schema(path: str, came: pa.Schema, spec: DataSpec) -> None:
    """Hold a file's columns, shapes and units against ``spec``.

    Raises:
        DataError: they differ, or the file is of another format version.
    """
    _check_metadata(path, came, spec)
    _check_columns(path, came, arrow_schema(spec))


def read_spec(path: str, schema: pa.Schema) -> DataSpec:
    """Return the specification in a table's metadata.

    Raises:
        DataError: the table has none, or one of another format version.
    """
    facts = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
    if facts.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{path!r} has sample-table version {facts.get('format_version')}.",
            f"This release reads version {FORMAT_VERSION}.",
            "Import the data again with this release.",
        )
    try:
        return DataSpec.model_validate(facts["spec"])
    except ValidationError as error:
        raise DataError(
            f"{path!r} has a specification that does not parse ({error.error_count()} faults).",
            "It is written by `fedkim data`.",
            "Import the data again.",
        ) from None


def _check_metadata(path: str, schema: pa.Schema, expected: DataSpec) -> None:
    """Compare what the file says of the modalities it has; scales are the card's alone."""
    came, expected = read_spec(path, schema).layout, expected.layout
    for modality in came.modalities:
        if _part(came, modality) != _part(expected, modality):
            raise DataError(
                f"{path!r} has another specification of {modality!r} than this run.",
                "All files of a run agree on shapes, units, leads and features.",
                "Import the file again with the data root's specification.",
            )


def _part(spec: DataSpec, modality: Modality) -> Frozen | None:
    fixed = {"image": spec.image, "signal": spec.signal}
    return fixed[modality] if modality in fixed else spec.series.get(modality)


def merge_specs(one: DataSpec, other: DataSpec) -> DataSpec:
    """Return a specification of everything in either; ``one`` wins where only scales differ.

    Raises:
        DataError: they differ in what both have.
    """
    for modality in [m for m in one.modalities if m in other.modalities]:
        if _part(one.layout, modality) != _part(other.layout, modality):
            raise DataError(
                f"The new data's specification of {modality!r} differs from the data root's.",
                "All data of a root agree on sizes, leads, rates, hours and features.",
                "Set the importer's options to the root's (`fedkim data describe ROOT`), or import "
                "into another root.",
            )
    return DataSpec(
        image=one.image or other.image,
        signal=one.signal or other.signal,
        series={**other.series, **one.series},
    )


def _check_columns(path: str, came: pa.Schema, expected: pa.Schema) -> None:
    for name in REQUIRED:
        if name not in came.names:
            raise DataError(
                f"{path!r} has no column {name!r}.",
                f"Every sample table has {', '.join(REQUIRED)}.",
                "Import the data again.",
            )
    for field in came:
        index = expected.get_field_index(field.name)
        if index >= 0 and expected.field(index).type != field.type:
            raise DataError(
                f"{path!r}, column {field.name!r} is of type {field.type}.",
                f"Expected {expected.field(index).type}.",
                "Import the data again.",
            )


_ALLOWED: Mapping[str, tuple[pa.Array, str, str]] = {
    "label": (pa.array([0, 1, None]), "is neither 0 nor 1", "A label is 0, 1 or empty."),
    "sex": (pa.array([*SEXES, None]), "is another word", f"Sex is {', '.join(SEXES)} or empty."),
    "age_years": (
        pa.array([*range(MAX_AGE_YEARS + 1), None]),
        "is no age",
        f"An age is 0 to {MAX_AGE_YEARS} years or empty.",
    ),
}
"""What a column may hold, what else is said to be, and what was expected."""


def check_rows(path: str, table: pa.Table, first_row: int = 0) -> None:
    """Hold every row against the contract; ``first_row`` is its first row's place in the file.

    Raises:
        DataError: naming file, row and column, never a value.
    """
    for name in table.column_names:
        column = table[name].combine_chunks()
        if name in REQUIRED and column.null_count:
            row = pc.index(pc.is_null(column), True).as_py()
            raise _bad_row(path, first_row + row, name, "is empty", "This column is never empty.")
        if name in _ALLOWED:
            values, came, expected = _ALLOWED[name]
            bad = pc.fill_null(pc.invert(pc.is_in(column, values.cast(column.type))), False)
            if (row := pc.index(bad, True).as_py()) >= 0:
                raise _bad_row(path, first_row + row, name, came, expected)
        if isinstance(column.type, pa.FixedShapeTensorType) and not name.endswith("_mask"):
            _check_finite(path, name, column, first_row)


def _check_finite(path: str, name: str, column: pa.ExtensionArray, first_row: int) -> None:
    present = column.storage.drop_null()
    finite = np.isfinite(present.flatten().to_numpy(zero_copy_only=False))
    if not finite.all():
        at = int(np.argmin(finite)) // column.type.storage_type.list_size
        row = int(np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))[at])
        raise _bad_row(
            path, first_row + row, name, "is NaN or infinite", "Missing values are masked, not NaN."
        )


def _bad_row(path: str, row: int, column: str, came: str, expected: str) -> DataError:
    return DataError(
        f"{path!r}, row {row}, column {column!r} {came}.",
        expected,
        "Correct the source and import it again.",
    )
