"""Electrocardiograms in files of four kinds: WFDB, DICOM waveform, CSV and NPY.

Shape letters: C leads, T samples.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.readers.images import import_pydicom
from fedkim_ray.data.readers.recordings import Recording, to_millivolts
from fedkim_ray.data.readers.wfdb_records import read_wfdb
from fedkim_ray.data.reasons import rejected

LEAD_NAME = re.compile(r"\b(?:lead\s+)?(aVR|aVL|aVF|III|II|I|V[1-9])\b", re.IGNORECASE)
STANDARD = {name.lower(): name for name in ("I", "II", "III", "aVR", "aVL", "aVF")}


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalFacts:
    """What a CSV or NPY file does not say of itself."""

    rate_hz: float
    unit: str = "mV"
    leads: Sequence[str] = ()
    """Of an NPY file, in its order."""


def read_signal_file(files: SourceFiles, name: str, facts: SignalFacts | None = None) -> Recording:
    """Read one recording, by the ending of its name; without an ending it is a WFDB record.

    Raises:
        RowRejectedError: the file is absent, leads out of the source, or cannot be decoded.
    """
    lower = name.lower()
    if lower.endswith((".dcm", ".dicom")):
        return read_dicom_waveform(files.read(name))
    if lower.endswith((".csv", ".npy")):
        if facts is None:
            raise rejected("signal_corrupt")
        read = _read_csv if lower.endswith(".csv") else _read_npy
        return read(files.read(name), facts)
    return read_wfdb(files, name)


def _read_csv(content: bytes, facts: SignalFacts) -> Recording:
    """Read a header of lead names and a row a sample; what is no lead is left alone."""
    try:
        table = pyarrow.csv.read_csv(io.BytesIO(content))
        columns = {n: table[n].to_numpy().astype(float) for n in table.column_names}
    except (pa.ArrowException, ValueError, TypeError):
        raise rejected("signal_corrupt") from None
    return _recording(list(columns), np.stack(list(columns.values())), facts)


def _read_npy(content: bytes, facts: SignalFacts) -> Recording:
    """Read an array of leads x samples or samples x leads."""
    try:
        _require_honest_header(content)
        signal = np.load(io.BytesIO(content), allow_pickle=False)
        if signal.shape[-1] == len(facts.leads) != signal.shape[0]:
            signal = signal.T
        if signal.ndim != 2 or len(signal) != len(facts.leads):
            raise ValueError
        return _recording(facts.leads, signal.astype(float), facts)
    except (ValueError, TypeError, IndexError, EOFError, MemoryError):
        raise rejected("signal_corrupt") from None


def _require_honest_header(content: bytes) -> None:
    """Hold the header's shape against the file's size before an array of it is made."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(file)
    if math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError


def _recording(leads: Sequence[str], signal_CT: np.ndarray, facts: SignalFacts) -> Recording:
    scaled = to_millivolts(signal_CT, [facts.unit] * len(leads))
    return Recording(leads=tuple(leads), rate_hz=facts.rate_hz, signal_CT=scaled)


def read_dicom_waveform(content: bytes) -> Recording:
    """Read the first group of channels of a DICOM waveform; nothing but samples is kept.

    Raises:
        RowRejectedError: it is no DICOM file, has no waveform, or a unit is not known.
    """
    pydicom = import_pydicom()
    try:
        dataset = pydicom.dcmread(io.BytesIO(content))
        group = dataset.WaveformSequence[0]
        signal = dataset.waveform_array(0).T
        channels = list(group.ChannelDefinitionSequence)
        leads = [_lead_of(channel) for channel in channels]
        units = [_unit_of(channel) for channel in channels]
        rate_hz = float(group.SamplingFrequency)
    except Exception:  # pydicom raises all manner of errors on broken files
        raise rejected("signal_corrupt") from None
    return Recording(leads=leads, rate_hz=rate_hz, signal_CT=to_millivolts(signal, units))


def _lead_of(channel: Any) -> str:
    meaning = str(channel.ChannelSourceSequence[0].CodeMeaning)
    match = LEAD_NAME.search(meaning)
    return STANDARD.get(match[1].lower(), match[1].upper()) if match else meaning


def _unit_of(channel: Any) -> str:
    sequence = channel.get("ChannelSensitivityUnitsSequence")
    return str(sequence[0].CodeValue) if sequence else ""
