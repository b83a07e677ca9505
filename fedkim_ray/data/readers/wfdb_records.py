"""WFDB records (``.hea`` and the files that it names) and their annotations."""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.readers.recordings import Recording, to_millivolts
from fedkim_ray.data.reasons import rejected
from fedkim_ray.errors import EnvironmentProblemError, RowRejectedError


@dataclass(frozen=True, slots=True)
class Annotations:
    """Marks on a record."""

    samples: np.ndarray
    """(N,) int: where, in samples of the record."""
    symbols: Sequence[str]
    notes: Sequence[str]


def read_wfdb(files: SourceFiles, name: str) -> Recording:
    """Read a record.

    Args:
        files: The source.
        name: Path of the record, with or without ``.hea``.

    Raises:
        RowRejectedError: the header or a file it names is absent, leads out of the source, or
            cannot be decoded; or a unit is not known.
    """
    stem = name.removesuffix(".hea")
    folder = posixpath.dirname(stem)
    named = sorted({posixpath.join(folder, n) for n in _signal_files(files.read(f"{stem}.hea"))})
    with files.local(f"{stem}.hea", *named) as home:
        record = _call("rdrecord", str(home / stem))
    if record.p_signal is None or record.sig_name is None:
        raise rejected("signal_corrupt")
    return Recording(
        leads=tuple(record.sig_name),
        rate_hz=float(record.fs),
        signal_CT=to_millivolts(record.p_signal.T, record.units),
    )


def read_annotations(files: SourceFiles, name: str, extension: str = "atr") -> Annotations:
    """Read a record's annotations.

    Raises:
        RowRejectedError: the file is absent or cannot be decoded.
    """
    with files.local(f"{name}.{extension}") as home:
        marks = _call("rdann", str(home / name), extension)
    return Annotations(np.asarray(marks.sample), marks.symbol, marks.aux_note)


def read_comments(files: SourceFiles, name: str) -> list[str]:
    """Return the comment lines of a record's header, without their mark."""
    text = files.read(f"{name}.hea").decode("latin-1").splitlines()
    return [line.removeprefix("#").strip() for line in text if line.startswith("#")]


def _signal_files(header: bytes) -> list[str]:
    """Return the files that a header names, before anything opens them.

    Source: header(5) of the WFDB applications guide.
    """
    text = header.decode("latin-1").splitlines()
    lines = [line.split() for line in text if line.strip() and not line.startswith("#")]
    try:
        record, num_signals = lines[0][0], int(lines[0][1])
        names = [line[0] for line in lines[1 : num_signals + 1]]
    except (IndexError, ValueError):
        raise rejected("signal_corrupt") from None
    if "/" in record or len(names) != num_signals or not names:
        raise rejected("signal_corrupt")  # segments may lack leads; make one record of them first
    return names


def _call(function: str, *arguments: str) -> Any:
    """Call wfdb; on broken files it raises all manner of errors."""
    wfdb = import_wfdb()
    try:
        return getattr(wfdb, function)(*arguments)
    except RowRejectedError:
        raise
    except Exception:
        raise rejected("signal_corrupt") from None


def import_wfdb() -> Any:
    """Return wfdb.

    Raises:
        EnvironmentProblemError: it is not installed.
    """
    try:
        import wfdb
    except ImportError:
        raise EnvironmentProblemError(
            "wfdb is not installed.",
            "WFDB records are read with it.",
            "In the project: `pip install -c constraints.txt '.[importers]'`.",
        ) from None
    return wfdb
