"""CheXpert: chest X-rays of Stanford Hospital; its validation set asks three unseen tasks.

``valid.csv`` has 234 images of 200 patients; three radiologists read them, so every finding is 0 or
1. All of them lie in test. ``-o table=train.csv`` takes the 223,414 training images instead, whose
findings a program read out of reports: 1 stated, 0 denied, -1 uncertain, empty not mentioned.
Uncertain findings are left out and counted (U-Ignore of the paper), or count as the option says;
what is not mentioned counts as absent. Each finding is read from its own column.

Written from the published layout, not run on the owner's files but for the label table of the
training set, which package torchxrayvision carries.

Source: Irvin et al. 2019, https://arxiv.org/abs/1901.07031; the table's columns as in
https://stanfordmlgroup.github.io/competitions/chexpert/
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import ClassVar, Literal

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
from fedkim_ray.data.importing.published import ImageOptions, cells_at, text_table
from fedkim_ray.data.readers.images import read_image
from fedkim_ray.data.reasons import column_at_fault, rejected
from fedkim_ray.data.schema import DataSpec, ImageSpec
from fedkim_ray.types import TaskId

COLUMN_OF: Mapping[TaskId, str] = {
    "enlarged_cardiomediastinum": "Enlarged Cardiomediastinum",
    "atelectasis": "Atelectasis",
    "pleural_effusion": "Pleural Effusion",
}
COLUMNS = ("Path", "Frontal/Lateral", *COLUMN_OF.values())
PATIENT = re.compile(r"(?:^|/)(patient\d+)/")
UNCERTAIN = LeftOut("uncertain finding")
LATERAL = LeftOut("lateral view")


class CheXpertOptions(ImageOptions):
    """Values of ``-o``."""

    table: Literal["valid.csv", "train.csv"] = "valid.csv"
    uncertain: Literal["leave_out", "no", "yes"] = "leave_out"
    """What a finding of -1 counts as."""
    views: Literal["all", "frontal"] = "all"


class CheXpert(Importer):
    """Three findings an image."""

    name = "chexpert"
    title = "CheXpert"
    licence = "Stanford University Dataset Research Use Agreement: research, not to be passed on"
    reference = "Irvin et al. 2019, CheXpert, AAAI 33:590-597"
    tasks: ClassVar[tuple[TaskId, ...]] = tuple(COLUMN_OF)
    test_only = True
    Options = CheXpertOptions
    options: CheXpertOptions

    def layout(self) -> Sequence[Expected]:
        """Return the label table and the images beside it."""
        images = f"{self.options.table.removesuffix('.csv')}/patient*/study*/view*_*.jpg"
        return [Expected(pattern=self.options.table, columns=COLUMNS), Expected(pattern=images)]

    def spec(self) -> DataSpec:
        """Return grey images."""
        return DataSpec(image=ImageSpec(size_px=self.options.size_px))

    def items(self) -> list[Item]:
        """Return the table's rows."""
        return list(range(self._table.num_rows))

    def rows(self, item: Item) -> Iterator[Row | LeftOut | Rejection]:
        """Yield one row a finding."""
        index = int(str(item))
        cells = cells_at(self._table, index)
        if self.options.views == "frontal" and cells["Frontal/Lateral"] != "Frontal":
            yield LATERAL
            return
        yield from attempt(partial(self._findings, cells, index + 1), row=index + 1)

    def where(self, item: Item) -> str:
        """Return the table's name: rejections name the row."""
        return self.options.table

    def _findings(self, cells: Mapping[str, str], line: int) -> list[Row | LeftOut]:
        path = cells["Path"]
        patient = PATIENT.search(path)
        if patient is None:
            raise rejected("subject_missing", "Path")
        labels = {task: self._label(cells[column], column) for task, column in COLUMN_OF.items()}
        # The table's paths start with the name of the download, whatever the folder is called now.
        with column_at_fault("Path"):
            image = read_image(self.files.read(path.partition("/")[2]))
        return [
            UNCERTAIN
            if label is None
            else Row(
                sample=path, subject=patient[1], task=task, label=label, image=image, line=line
            )
            for task, label in labels.items()
        ]

    def _label(self, text: str, column: str) -> int | None:
        """Return 0 or 1, or None where the finding is left out."""
        uncertain = {"leave_out": None, "no": 0, "yes": 1}[self.options.uncertain]
        meaning = {"": 0, "0.0": 0, "0": 0, "1.0": 1, "1": 1, "-1.0": uncertain, "-1": uncertain}
        if text not in meaning:
            raise rejected("label_unknown", column)
        return meaning[text]

    @cached_property
    def _table(self) -> pa.Table:
        return text_table(self.files, self.options.table, COLUMNS)


SOURCE = CheXpert
