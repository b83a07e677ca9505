"""MIMIC-III 1.4: intensive care of Beth Israel Deaconess, hour by hour, for mortality and sepsis.

The first stay of every admission that lasts a day or longer; newborns are left out. Mortality in
hospital is asked after the first 24 hours, sepsis (ICD-9 995.91, 995.92, 785.52 among the
diagnoses) after up to 168. Labs, vital signs, inputs and outputs are grids of their own, which
the recipe encodes apart or, with ``encoders.groups``, together: 48 features in all
(``data/mimic3/features.py``), in one unit each. A cell is the mean of its hour's values; of fluids
the sum; of infusions the rate by the share of the hour. An hour without a record of an input is an
observed 0, and one whose record cannot be used missing; so is all else that is not recorded.

One pass over each table divides its events by stay, streaming; ``benchmarks/mimic3`` measures its
memory. A table that is done is not read again after an interruption.

Written from the published layout, not run on the owner's files.

Source: Johnson et al. 2016, https://doi.org/10.1038/sdata.2016.35;
https://physionet.org/content/mimiciii/1.4/; https://mimic.mit.edu/docs/iii/tables/
"""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import repeat
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import PositiveInt

from fedkim_ray.data.importing.buckets import (
    bucket_of,
    fill_buckets,
    num_buckets_for,
    read_bucket,
)
from fedkim_ray.data.importing.contract import (
    Expected,
    Importer,
    Item,
    LeftOut,
    Rejection,
    Row,
)
from fedkim_ray.data.mimic3.events import SCHEMA, TABLES, EventReader
from fedkim_ray.data.mimic3.features import FEATURES, series_specs
from fedkim_ray.data.mimic3.grids import grid
from fedkim_ray.data.mimic3.items import require_items
from fedkim_ray.data.mimic3.stays import (
    ADMISSIONS,
    DIAGNOSES,
    ICUSTAYS,
    find_stays,
    read_left_out,
    read_stays,
    write_stays,
)
from fedkim_ray.data.modalities import SERIES
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.types import Frozen, Modality, TaskId

SHORT = LeftOut("stay shorter than mortality_hours")
STAYS_PER_BUCKET = 512
"""A grid of 168 hours takes 65 kB a stay, and several are held at a time."""


class Mimic3Options(Frozen):
    """Values of ``-o``."""

    mortality_hours: PositiveInt = 24
    sepsis_hours: PositiveInt = 168


class Mimic3(Importer):
    """Two questions a stay."""

    name = "mimic3"
    title = "MIMIC-III"
    licence = "PhysioNet Credentialed Health Data License 1.5.0: not to be passed on"
    reference = "Johnson et al. 2016, Scientific Data 3:160035; PhysioNet mimiciii 1.4"
    tasks: ClassVar[tuple[TaskId, ...]] = ("mortality", "sepsis")
    items_per_unit = 1
    Options = Mimic3Options
    options: Mimic3Options

    def layout(self) -> Sequence[Expected]:
        """Return the tables in use, as shipped."""
        tables = {
            "ADMISSIONS": ADMISSIONS,
            "ICUSTAYS": ICUSTAYS,
            "DIAGNOSES_ICD": DIAGNOSES,
            **{name: table.columns for name, table in TABLES.items()},
            "D_ITEMS": ("ITEMID", "LABEL"),
            "D_LABITEMS": ("ITEMID", "LABEL"),
        }
        return [Expected(pattern=f"{n}.csv.gz", columns=columns) for n, columns in tables.items()]

    def spec(self) -> DataSpec:
        """Return four series of as many hours as the longer task asks for."""
        return DataSpec(series=series_specs(self._hours))

    def prepare(self) -> None:
        """Find the stays, then divide every table's events by stay."""
        require_items(self.files)
        if not (self.scratch / "stays.parquet").exists():
            write_stays(*find_stays(self.files), self.scratch)
        reader = EventReader(self.files, read_stays(self.scratch), self._hours)
        for name in TABLES:
            done = self.scratch / f"{name}.json"
            if done.exists():
                continue
            for part in self.scratch.glob(f"*/{name}-*.parquet"):
                part.unlink()
            reader.unused.clear()
            fill_buckets(reader.events(name), "stay", self._num_buckets, self.scratch, name)
            done.write_text(json.dumps(reader.unused))

    def items(self) -> list[Item]:
        """Return the parts that the stays are divided into."""
        return list(range(self._num_buckets))

    def where(self, item: Item) -> str:
        """Return the table of stays: rejections name the row."""
        return "ICUSTAYS.csv.gz"

    def rows(self, item: Item) -> Iterator[Row | LeftOut | Rejection]:
        """Yield the two rows of every stay in a part."""
        bucket, stays = int(str(item)), read_stays(self.scratch)
        if bucket == 0:
            yield from self._not_in_a_part()
        places = pa.array(np.arange(stays.num_rows), pa.int32())
        mine = np.flatnonzero(bucket_of(places, self._num_buckets) == bucket)
        facts = stays.take(mine).to_pylist()
        grids = {modality: self._grid(bucket, modality, mine) for modality in SERIES}
        for index, stay in enumerate(facts):
            if lacking := _lacking(stay):
                yield lacking
                continue
            if stay["hours"] < self.options.mortality_hours:
                yield SHORT
                continue
            recorded = min(stay["hours"], self._hours)
            series = {m: g[index, :recorded].copy() for m, g in grids.items()}
            yield self._row("mortality", stay, series, self.options.mortality_hours)
            yield self._row("sepsis", stay, series, self.options.sepsis_hours)

    def _not_in_a_part(self) -> Iterator[LeftOut]:
        """Tell, once, what was left out and not used before the stays were divided."""
        for name in TABLES:
            self.unused_values.update(json.loads((self.scratch / f"{name}.json").read_text()))
        for reason, number in read_left_out(self.scratch).items():
            yield from repeat(LeftOut(reason), number)

    def _row(
        self, task: TaskId, stay: dict[str, int], series: dict[Modality, np.ndarray], hours: int
    ) -> Row:
        label = stay["died"] if task == "mortality" else stay["sepsis"]
        return Row(
            sample=str(stay["HADM_ID"]),
            subject=str(stay["SUBJECT_ID"]),
            task=task,
            label=int(label),
            series={modality: values[:hours] for modality, values in series.items()},
            line=stay["row"],
        )

    @property
    def _hours(self) -> int:
        return max(self.options.mortality_hours, self.options.sepsis_hours)

    @cached_property
    def _num_buckets(self) -> int:
        fs, folder = self.files.folder.fs, self.files.folder
        size_bytes = sum(fs.size(folder.full(f"{name}.csv.gz")) for name in TABLES)
        by_stays = -(-int(read_stays(self.scratch).num_rows) // STAYS_PER_BUCKET)
        return max(num_buckets_for(size_bytes), by_stays)

    def _grid(self, bucket: int, modality: Modality, mine: np.ndarray) -> np.ndarray:
        """Return the part's cells, (N, H, F)."""
        tables = [name for name, table in TABLES.items() if table.modality == modality]
        events = pa.concat_tables(read_bucket(self.scratch, bucket, n, SCHEMA) for n in tables)
        place = pa.array(np.searchsorted(mine, events["stay"].to_numpy()), pa.int32())
        events = events.set_column(0, "stay", place)
        unrecorded = 0.0 if modality == "input" else np.nan
        return grid(events, len(mine), self._hours, len(FEATURES[modality]), unrecorded)


def _lacking(stay: dict[str, int | None]) -> Rejection | None:
    """Return the rejection of a stay that does not say whose it is or how it ended."""
    if stay["SUBJECT_ID"] is None:
        return Rejection(reason="subject_missing", row=stay["row"], column="SUBJECT_ID")
    if stay["died"] is None:
        return Rejection(reason="label_missing", row=stay["row"], column="HOSPITAL_EXPIRE_FLAG")
    return None


SOURCE = Mimic3
