"""Why an example is rejected: the codes of ``rejected.parquet``, and what each means.

A reader raises ``rejected(code)``; the importer's machinery writes the code, and the place in the
source, never a value. Serving refuses a request with the same texts.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from fedkim_ray.errors import RowRejectedError


class Reason(NamedTuple):
    """The three parts of an error's text."""

    came: str
    expected: str
    remedy: str


REASONS: Mapping[str, Reason] = {
    "file_missing": Reason(
        "A file that the row names does not exist.",
        "Every file lies under the source folder.",
        "Restore it, or correct the name.",
    ),
    "path_escapes": Reason(
        "A file name leads out of the source folder.",
        "Names are relative, without '..', and links stay inside.",
        "Move the file into the source folder.",
    ),
    "file_too_large": Reason(
        "A file is too large to be one example.",
        "One example's file has at most 512 MiB.",
        "Export this example alone.",
    ),
    "image_corrupt": Reason(
        "A file cannot be decoded as an image.",
        "It is a whole PNG, JPEG or DICOM file.",
        "Export the image again.",
    ),
    "image_too_large": Reason(
        "An image has too many pixels.",
        "At most 100 million pixels are decoded.",
        "Scale the image down.",
    ),
    "image_empty": Reason(
        "All pixels of an image are alike.",
        "An image shows something.",
        "Export the image again.",
    ),
    "image_unsupported": Reason(
        "An image is of a kind that is not read.",
        "It is one frame, grey or RGB; DICOM in a transfer syntax that the decoders know.",
        "Convert it, or install pydicom's optional decoders.",
    ),
    "signal_corrupt": Reason(
        "A recording cannot be decoded.",
        "It is a whole WFDB record, DICOM waveform, CSV or NPY file.",
        "Export the recording again.",
    ),
    "signal_too_short": Reason(
        "A recording is too short.",
        "It lasts at least a second.",
        "Leave it out.",
    ),
    "rate_impossible": Reason(
        "A recording's sampling rate is none that an ECG has.",
        "It lies between 10 and 10000 samples a second.",
        "Correct it.",
    ),
    "lead_missing": Reason(
        "A recording lacks a lead.",
        "It has every lead of the data's specification.",
        "Leave it out, or import it into a data root of its own leads.",
    ),
    "unit_unknown": Reason(
        "A recording or feature is in a unit that is not known.",
        "ECGs are in mV, uV, V or nV; features in the units that the importer documents.",
        "Convert it, or name the unit.",
    ),
    "unit_wrong": Reason(
        "A recording's values are too large for the unit it names.",
        "A surface ECG has a few millivolts.",
        "Correct the unit.",
    ),
    "not_finite": Reason(
        "A value is NaN or infinite.",
        "Signals have no gaps; a missing value of a time series is left empty.",
        "Interpolate or leave out.",
    ),
    "value_impossible": Reason(
        "A value lies outside what is physiologically possible.",
        "Values lie within the feature's limits, in its unit.",
        "Check the unit.",
    ),
    "not_a_number": Reason(
        "A value is no number.",
        "Measured values, hours and labels are numbers.",
        "Correct the value.",
    ),
    "series_empty": Reason(
        "A patient has no measured value.",
        "At least one value is measured.",
        "Leave the patient out.",
    ),
    "nothing_carried": Reason(
        "A row carries none of the modalities that its task reads.",
        "It carries at least one.",
        "Leave the row out.",
    ),
    "label_missing": Reason(
        "A row has no label or answer.",
        "Rows of a yes/no task have a label, those of other tasks an answer.",
        "Fill it in, or leave the row out.",
    ),
    "label_unknown": Reason(
        "A label is none of those that the importer or the mapping names.",
        "It is one of the two classes.",
        "Correct it, or name it in the mapping.",
    ),
    "subject_missing": Reason(
        "A row does not say whose it is.",
        "Every row names its subject: the split goes by it.",
        "Fill it in.",
    ),
    "task_unknown": Reason(
        "A row belongs to a task that is not known.",
        "It is a built-in task or one that the mapping adds.",
        "Correct it.",
    ),
    "site_missing": Reason(
        "A row does not say which hospital it is from.",
        "Partition `site` needs it in every row.",
        "Fill it in, or choose another partition.",
    ),
    "other_place": Reason(
        "A subject's rows would fall into two places of the data root.",
        "A subject is in one client, in public or in test; its other rows are left out.",
        "Nothing, unless there are many: then a subject's number may not be one person's.",
    ),
    "duplicate": Reason(
        "A row has the identity of an earlier one.",
        "Each example occurs once a task.",
        "Remove the copy.",
    ),
}
OF_FILES = frozenset(
    {
        *("file_missing", "path_escapes", "file_too_large"),
        *("image_corrupt", "image_too_large", "image_empty", "image_unsupported"),
        *("signal_corrupt", "signal_too_short", "rate_impossible", "lead_missing"),
        *("unit_unknown", "unit_wrong", "not_finite"),
    }
)
"""Reasons that may be gone once a file was restored, with nothing changed in the table."""


@contextmanager
def column_at_fault(column: str) -> Iterator[None]:
    """Name the column in rejections that name none: of a file, the column that named it."""
    try:
        yield
    except RowRejectedError as error:
        if error.column:
            raise
        raise rejected(error.reason, column) from None


def rejected(reason: str, column: str = "") -> RowRejectedError:
    """Return the error of a reason code, for the caller to raise."""
    return RowRejectedError(*REASONS[reason], reason, column)
