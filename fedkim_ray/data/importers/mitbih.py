"""REAL patients: the MIT-BIH Arrhythmia Database, 48 half-hour records of 47 people, two leads.

Each record is cut into windows of ten seconds. A window is abnormal if any beat in it is not
annotated as normal, and has ectopic beats if a premature beat or a fusion with one is in it.
Windows without any annotated beat are left out: their label is not known. Records 201 and 202 are
one person. The header's first comment has age and sex. The first lead is MLII; the second is V1 in
most records, V2 or V5 in some, and counts as one chest lead ``V``. Records 102 and 104 have no MLII
and are left out.

Source: Moody and Mark 2001, https://doi.org/10.1109/51.932724; https://physionet.org/content/mitdb/1.0.0/
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import PositiveFloat

from fedkim_ray.data.importing.contract import (
    Expected,
    Importer,
    Item,
    LeftOut,
    Made,
    Row,
    SplitDefaults,
)
from fedkim_ray.data.readers.recordings import Recording
from fedkim_ray.data.readers.wfdb_records import (
    Annotations,
    read_annotations,
    read_comments,
    read_wfdb,
)
from fedkim_ray.data.schema import DataSpec, SignalSpec
from fedkim_ray.data.traits import read_age, read_sex
from fedkim_ray.types import Frozen, TaskId

SAME_PERSON = {"202": "201"}
LEADS = ("MLII", "V")
OTHER_LEADS = LeftOut("record without lead MLII")
BEATS = frozenset("NLRBAaJSVrFejnE/fQ?")
"""Annotations that are beats; the others are rhythm, noise and comments."""
NORMAL = frozenset("N")
ECTOPIC = frozenset("AaJSVF")
"""Premature beats of atrium, junction and ventricle, and fusions of a ventricular and a normal one;
escape beats come late and are not extra."""


class MitBihOptions(Frozen):
    """Values of ``-o``."""

    window_s: PositiveFloat = 10.0
    """Length of an example."""
    rate_hz: PositiveFloat = 100.0
    """Sampling rate of an example; the records have 360 Hz."""


class MitBih(Importer):
    """Windows of the records, for ``ecg_abnormal`` and ``ectopic_beats``."""

    name = "mitbih"
    title = "MIT-BIH Arrhythmia Database"
    licence = "ODC-By 1.0"
    reference = "Moody and Mark 2001, IEEE Eng in Med and Biol 20(3):45-50; PhysioNet mitdb 1.0.0"
    tasks: ClassVar[tuple[TaskId, ...]] = ("ecg_abnormal", "ectopic_beats")
    ids_are_public = True
    items_per_unit = 1
    split_defaults = SplitDefaults(test_share=0.3, public_share=0.2, valid_share=0.2)
    Options = MitBihOptions
    options: MitBihOptions

    def layout(self) -> Sequence[Expected]:
        """Return the three files of each record."""
        return [Expected(pattern=f"*.{extension}") for extension in ("hea", "dat", "atr")]

    def spec(self) -> DataSpec:
        """Return two leads in millivolts."""
        num_samples = round(self.options.window_s * self.options.rate_hz)
        return DataSpec(
            signal=SignalSpec(
                leads=LEADS, sampling_rate_hz=self.options.rate_hz, num_samples=num_samples
            )
        )

    def items(self) -> list[Item]:
        """Return the records' names."""
        return [name.removesuffix(".hea") for name in self.files.glob("*.hea")]

    def rows(self, item: Item) -> Iterator[Made]:
        """Yield two rows a window: is it abnormal, and has it ectopic beats."""
        record = str(item)
        recording = _with_chest_lead(read_wfdb(self.files, record))
        if "MLII" not in recording.leads:
            yield OTHER_LEADS
            return
        marks = read_annotations(self.files, record)
        age, sex = _age_and_sex(read_comments(self.files, record))
        length = round(self.options.window_s * recording.rate_hz)
        for start in range(0, recording.signal_CT.shape[1] - length + 1, length):
            beats = _beats_within(marks, start, start + length)
            if beats:
                signal = recording.cut(start, start + length)
                for row in self._window(record, start, signal, beats):
                    yield replace(row, age_years=age, sex=sex)

    def _window(self, record: str, start: int, signal: Recording, beats: set[str]) -> Iterator[Row]:
        labels = {
            "ecg_abnormal": int(bool(beats - NORMAL)),
            "ectopic_beats": int(bool(beats & ECTOPIC)),
        }
        for task, label in labels.items():
            yield Row(
                sample=f"{record}/{start}",
                subject=SAME_PERSON.get(record, record),
                task=task,
                label=label,
                signal=signal,
            )


def _age_and_sex(comments: Sequence[str]) -> tuple[int | None, str | None]:
    """Read ``69 M 1085 1629 x1``: age, sex, and numbers of the tape."""
    words = (comments[0] if comments else "").split()
    return (read_age(words[0]), read_sex(words[1])) if len(words) > 1 else (None, None)


def _beats_within(marks: Annotations, start: int, stop: int) -> set[str]:
    first, last = np.searchsorted(marks.samples, [start, stop])
    return set(marks.symbols[first:last]) & BEATS


def _with_chest_lead(recording: Recording) -> Recording:
    """Name the chest lead ``V``, whichever it is."""
    leads = ["V" if name.startswith("V") else name for name in recording.leads]
    return Recording(leads=leads, rate_hz=recording.rate_hz, signal_CT=recording.signal_CT)


SOURCE = MitBih
