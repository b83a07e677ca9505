"""ECG-QA: questions about PTB-XL's records; those about noise are the task ``signal_noise``.

Of the questions with ``attribute_type`` "noise" those about one record are asked; comparisons of
two are left out and counted. All files of template questions are read, whichever of the owner's
splits they are in: who may be asked goes by PTB-XL's folds, as in importer ``ptbxl``, so that no
record is in test here and in a client there. Several answers are joined by commas.

The source holds both downloads: ``ecgqa/`` and, beside it or where ``-o ptbxl=FOLDER`` says,
PTB-XL's table and records.

Written from the published layout; the layout of the questions was seen in the owner's repository,
the signals were not.

Source: Oh et al. 2023, https://arxiv.org/abs/2306.15681; https://github.com/Jwoo5/ecg-qa
"""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any, ClassVar

from fedkim_ray.data.importing.contract import (
    OUTSIDE_TEST,
    Expected,
    Importer,
    Item,
    LeftOut,
    Rejection,
    Row,
    attempt,
)
from fedkim_ray.data.importing.ptbxl_table import PEOPLE, SPEC, TABLE, FoldOptions, patient_of
from fedkim_ray.data.importing.published import json_list, text_at, text_table
from fedkim_ray.data.readers.recordings import Recording
from fedkim_ray.data.readers.wfdb_records import read_wfdb
from fedkim_ray.data.reasons import column_at_fault, rejected
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.data.whole_numbers import whole_number
from fedkim_ray.types import TaskId

KEYS = ("sample_id", "question_type", "attribute_type", "question", "answer", "ecg_id")
COLUMNS = ("ecg_id", "patient_id", "strat_fold", "filename_lr")
ABOUT = "noise"
KEPT_RECORDS = 256
"""Decoded records that a worker remembers: a record has several questions, in one file or two."""


class EcgQaOptions(FoldOptions):
    """Values of ``-o``."""

    questions: str = "ecgqa/ptbxl/template"
    """Folder of ``train``, ``valid`` and ``test``, within the source."""
    ptbxl: str = "."
    """Folder of PTB-XL, within the source."""


class EcgQa(Importer):
    """Questions about noise."""

    name = "ecg_qa"
    title = "ECG-QA"
    licence = "CC BY 4.0, as PTB-XL's signals"
    reference = "Oh et al. 2023, ECG-QA, NeurIPS Datasets and Benchmarks"
    tasks: ClassVar[tuple[TaskId, ...]] = ("signal_noise",)
    ids_are_public = True
    subjects_of = PEOPLE
    items_per_unit = 1
    Options = EcgQaOptions
    options: EcgQaOptions

    def layout(self) -> Sequence[Expected]:
        """Return the questions, PTB-XL's table and its records."""
        return [
            Expected(pattern=f"{self.options.questions}/*/*.json", columns=KEYS),
            Expected(pattern=self._beside(TABLE), columns=COLUMNS),
            Expected(pattern=self._beside("records100/*/*_lr.hea")),
        ]

    def spec(self) -> DataSpec:
        """Return PTB-XL's twelve leads."""
        return DataSpec(signal=SPEC)

    def items(self) -> list[Item]:
        """Return the files of questions."""
        return list(self.files.glob(f"{self.options.questions}/*/*.json"))

    def rows(self, item: Item) -> Iterator[Row | LeftOut | Rejection]:
        """Yield a file's questions about noise."""
        name = str(item)
        split = posixpath.basename(posixpath.dirname(name))
        for number, question in enumerate(json_list(self.files, name), 1):
            if question.get("attribute_type") == ABOUT:
                make = partial(self._question, question, split, number)
                yield from attempt(make, row=number)

    def _question(self, question: Mapping[str, Any], split: str, number: int) -> Row | LeftOut:
        records, answers = question.get("ecg_id"), question.get("answer")
        if not isinstance(answers, list) or not answers:
            raise rejected("label_missing", "answer")
        if not isinstance(records, list):
            raise rejected("subject_missing", "ecg_id")
        if len(records) != 1:
            return LeftOut("comparison of two records")
        cells = self._records.get(str(records[0]))
        if cells is None:
            raise rejected("subject_missing", "ecg_id")
        if self.options.part(cells["strat_fold"]) != "test":
            return LeftOut(OUTSIDE_TEST)
        with column_at_fault("ecg_id"):
            signal = self._read(cells["filename_lr"])
        return Row(
            sample=f"{split}/{question.get('sample_id')}",
            subject=patient_of(cells),
            task="signal_noise",
            question=text_at(question, "question"),
            answer=", ".join(map(str, answers)),
            signal=signal,
            part="test",
            line=number,
        )

    def _beside(self, name: str) -> str:
        return posixpath.normpath(posixpath.join(self.options.ptbxl, name))

    @cached_property
    def _records(self) -> dict[str, dict[str, str]]:
        """Return the table's rows by record."""
        table = text_table(self.files, self._beside(TABLE), COLUMNS)
        return {whole_number(row["ecg_id"]): row for row in table.to_pylist()}

    @cached_property
    def _read(self) -> Any:
        @lru_cache(maxsize=KEPT_RECORDS)
        def read(name: str) -> Recording:
            return read_wfdb(self.files, self._beside(name))

        return read


SOURCE = EcgQa
