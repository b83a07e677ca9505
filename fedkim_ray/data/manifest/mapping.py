"""The YAML that says what the columns of a hospital's own table mean.

``fedkim data import manifest --explain`` prints a commented one.
"""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from fedkim_ray.data.modalities import SERIES
from fedkim_ray.data.schema import DataSpec, FeatureSpec, ImageSpec, SeriesSpec, SignalSpec
from fedkim_ray.data.tasks import task_table
from fedkim_ray.data.units import conversion
from fedkim_ray.errors import RecipeError
from fedkim_ray.types import Frozen, Modality, Task

Name = str
"""Of a column."""


class Fixed(Frozen):
    """The same value in every row."""

    value: str


class LabelColumn(Frozen):
    """Which values of a column mean no (label 0) and yes (label 1)."""

    column: Name
    negative: tuple[str, ...] = ("0",)
    positive: tuple[str, ...] = ("1",)

    @field_validator("negative", "positive", mode="before")
    @classmethod
    def _as_texts(cls, values: Any) -> Any:
        values = values if isinstance(values, list | tuple) else [values]
        texts = []
        for value in values:  # YAML reads a bare yes or no as a truth value
            plain = {True: ["yes", "true"], False: ["no", "false"]}
            texts += plain[value] if isinstance(value, bool) else [str(value)]
        return texts


class ImageColumn(Frozen):
    """A column of file names: PNG, JPEG or DICOM."""

    column: Name
    size_px: PositiveInt = 224
    """Images are scaled to a square of this side."""


class SignalFile(Frozen):
    """What CSV and NPY files do not say of themselves; WFDB and DICOM do."""

    rate_hz: PositiveFloat
    unit: str = "mV"
    leads: tuple[str, ...] = ()
    """Of NPY files, in their order; CSV files have a header."""


class SignalColumn(Frozen):
    """A column of file names: WFDB (.hea), DICOM waveform (.dcm), CSV or NPY."""

    column: Name
    leads: tuple[str, ...] = Field(min_length=1)
    """Leads that the model is to read, in this order."""
    rate_hz: PositiveFloat = 100.0
    seconds: PositiveFloat = 10.0
    file: SignalFile | None = None


class MappedFeature(Frozen):
    """One measured quantity."""

    name: str
    unit: str
    low: float
    """Smallest physiologically possible value, in ``unit``."""
    high: float
    source: str = ""
    """The column, or the name in a long table; the feature's name where empty."""
    source_unit: str = ""
    """The table's unit where it is another."""

    @property
    def key(self) -> str:
        """The column, or the name in a long table."""
        return self.source or self.name

    @model_validator(mode="after")
    def _is_convertible(self) -> "MappedFeature":
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if conversion(self.name, self.source_unit or self.unit, self.unit) is None:
            raise ValueError(
                f"no conversion from {self.source_unit!r} to {self.unit!r} is known for "
                f"{self.name!r}; set unit to {self.source_unit!r}, with low and high in it"
            )
        return self


class SeriesTable(Frozen):
    """Hourly values of one modality, in a table of their own or in the row itself."""

    features: tuple[MappedFeature, ...] = Field(min_length=1)
    hours: PositiveInt = 1
    table: str = ""
    """CSV, JSONL or Parquet with the hours of all rows; empty where the manifest's own columns
    hold one value a feature."""
    key: Name = ""
    """Column in both tables that says which rows belong together."""
    hour: Name = "hour"
    """Column with the hours since the start, from 0."""
    layout: Literal["wide", "long"] = "wide"
    """``wide``: a column a feature. ``long``: a row a value."""
    name: Name = "name"
    """Of a long table: the column with the feature's name."""
    value: Name = "value"
    """Of a long table: the column with the value."""

    @model_validator(mode="after")
    def _is_whole(self) -> "SeriesTable":
        if self.table and not self.key:
            raise ValueError("a series with a table needs `key`, the column that both tables have")
        if not self.table and self.hours != 1:
            raise ValueError("a series without a table has one hour, of the manifest's own columns")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the series' own table, or of the manifest."""
        names = tuple(dict.fromkeys(feature.key for feature in self.features))
        if not self.table:
            return names
        return (self.key, self.hour, *((self.name, self.value) if self.layout == "long" else names))

    def spec(self) -> SeriesSpec:
        """Return the specification of the stored series."""
        features = (
            FeatureSpec(name=f.name, unit=f.unit, low=f.low, high=f.high) for f in self.features
        )
        return SeriesSpec(features=tuple(features), hours=self.hours)


class TableMapping(Frozen):
    """A whole mapping."""

    format_version: Literal[1] = 1
    table: str
    """The manifest: CSV, JSONL or Parquet, one row an example."""
    title: str
    """Of the data, on the data root's card."""
    licence: str
    kind: Literal["real", "synthetic"] = "real"
    task: str
    """Of every row: a built-in task, or one below."""
    subject: Name
    site: Name | Fixed | None = None
    sex: Name | None = None
    """Column with female or male, or their first letters; other words count as not stated."""
    age_years: Name | None = None
    sample: Name | None = None
    """Column that identifies a row; its line where absent."""
    label: Name | LabelColumn | None = None
    answer: Name | None = None
    question: Name | None = None
    text: Name | None = None
    image: ImageColumn | None = None
    signal: SignalColumn | None = None
    series: dict[Modality, SeriesTable] = Field(default_factory=dict)
    impossible: Literal["reject", "missing"] = "reject"
    """What becomes of a row with a series value outside its limits: it is rejected, or the value
    counts as missing."""
    tasks: tuple[Task, ...] = ()
    """Tasks of your own; the recipe of a run lists the same ones."""

    @model_validator(mode="after")
    def _fits_its_task(self) -> "TableMapping":
        task = self.the_task
        carried = {"image": self.image, "signal": self.signal, "text": self.text, **self.series}
        given = {modality for modality, column in carried.items() if column}
        unknown = sorted(set(self.series) - set(SERIES))
        if unknown:
            raise ValueError(f"series are {', '.join(SERIES)}, not {', '.join(unknown)}")
        if strange := sorted(given - set(task.modalities)):
            raise ValueError(
                f"task {task.id!r} reads {', '.join(task.modalities)}, not {', '.join(strange)}"
            )
        if not given - {"text"} and task.modalities != ("text",):
            raise ValueError(f"nothing is mapped that task {task.id!r} reads: {task.modalities}")
        if len({series.key for series in self.series.values() if series.table}) > 1:
            raise ValueError("all series with a table have the same `key`")
        wanted = "label" if task.kind == "yes_no" else "answer"
        if getattr(self, wanted) is None:
            raise ValueError(f"task {task.id!r} needs `{wanted}`")
        return self

    @property
    def the_task(self) -> Task:
        """The rows' task.

        Raises:
            ValueError: there is none of that name, or a task of the user's own cannot be used.
        """
        try:
            table = task_table(self.tasks)
        except RecipeError as error:
            raise ValueError(str(error)) from None
        if self.task not in table:
            raise ValueError(f"task {self.task!r} is neither one of {', '.join(table)} nor below")
        return table[self.task]

    @property
    def label_column(self) -> LabelColumn | None:
        """The label's column with its values."""
        return LabelColumn(column=self.label) if isinstance(self.label, str) else self.label

    def columns(self) -> dict[str, str]:
        """Return the manifest's columns that are used, by the field of the mapping."""
        return dict(self._columns())

    def _columns(self) -> Iterator[tuple[str, str]]:
        plain = ("subject", "site", "sex", "age_years", "sample", "answer", "question", "text")
        for name in plain:
            if isinstance(column := getattr(self, name), str):
                yield name, column
        for name, spec in (
            ("label", self.label_column), ("image", self.image), ("signal", self.signal)
        ):  # fmt: skip
            if spec is not None:
                yield name, spec.column
        for modality, series in self.series.items():
            if series.table:
                yield f"series.{modality}.key", series.key
            else:
                yield from ((f"series.{modality}.{c}", c) for c in series.columns)

    def spec(self) -> DataSpec:
        """Return shapes and units of what is mapped."""
        signal = self.signal and SignalSpec(
            leads=self.signal.leads,
            sampling_rate_hz=self.signal.rate_hz,
            num_samples=round(self.signal.rate_hz * self.signal.seconds),
        )
        return DataSpec(
            image=self.image and ImageSpec(size_px=self.image.size_px),
            signal=signal,
            series={modality: series.spec() for modality, series in self.series.items()},
        )
