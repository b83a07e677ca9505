"""ECG recordings in files: WFDB, DICOM waveform, CSV and NPY.

What a header promises is held against the bounds before the recording is read: a header of a few
bytes may promise terabytes.

Shape letters: C leads, T samples.
"""

import io
import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.readers.images import import_pydicom
from fedkim_ray.data.readers.recordings import Recording, to_millivolts
from fedkim_ray.data.readers.wfdb_records import import_wfdb, read_wfdb
from fedkim_ray.data.reasons import rejected
from fedkim_ray.errors import EnvironmentProblemError, RowRejectedError
from serve.base64_field import decode_base64
from serve.errors import FieldError
from serve.images import is_dicom, require_plain_dicom
from serve.limits import Limits
from serve.rejections import refusing
from serve.schemas import EcgFile
from serve.sent_ecg import SentEcg

IN_MEMORY = "/dev/shm"
"""Where Linux keeps files in memory: WFDB is read from paths alone, and a patient's signals are
not to touch the disk. Another system's temporary folder is used where there is none."""
MAX_LEADS = 64
MAX_HEADER_BYTES = 1 << 16
MAX_LINE_BYTES = 255
"""Of a WFDB header's line, as its format has it. wfdb's patterns take the square of a line's length
and hold the whole process meanwhile."""
LEAD_NAME = re.compile(r"^lead\s+|\s*\(.*\)$", re.IGNORECASE)
"""What DICOM puts around a lead's name: `Lead I (Einthoven)`."""


def read_ecg_file(ecg: SentEcg, file: EcgFile, limits: Limits, path: str) -> Recording:
    """Read a file; leads, rate and unit that it lacks are those of ``ecg``.

    Raises:
        FieldError: it is too large, not whole, or lacks what ``ecg`` does not give either.
    """
    place = f"{path}.file.data"
    encoded = decode_base64(file.data, limits.image_bytes, place)
    readers: dict[str, Callable[[], Recording]] = {
        "wfdb": lambda: _read_wfdb(encoded, _header(file, limits, path), limits),
        "dicom": lambda: _read_dicom(encoded, place),
        "csv": lambda: _read_csv(encoded, ecg, path),
        "npy": lambda: _read_npy(encoded, ecg, path),
    }
    with refusing(place):
        try:
            recording = readers[file.format]()
        except (FieldError, RowRejectedError, EnvironmentProblemError):
            raise
        except Exception:  # decoders meet hostile bytes here and fail in ways nobody has listed
            raise rejected("signal_corrupt") from None
        if not all(recording.leads):
            raise rejected("signal_corrupt")  # a WFDB header may leave a signal without a name
    if recording.signal_CT.shape[1] > limits.signal_samples:
        raise _too_long(limits, place)
    return recording


def _header(file: EcgFile, limits: Limits, path: str) -> bytes:
    if file.header is None:
        raise FieldError(
            f"{path}.file.header is missing.",
            "A WFDB record is two files: its .hea in `header`, its signal file in `data`.",
            "Send the .hea too.",
            f"{path}.file.header",
        )
    place = f"{path}.file.header"
    header = decode_base64(file.header, min(limits.image_bytes, MAX_HEADER_BYTES), place)
    longest = max(map(len, header.splitlines()), default=0)
    if longest > MAX_LINE_BYTES:
        raise FieldError(
            f"{place} has a line of {longest} bytes.",
            f"A WFDB header's lines have at most {MAX_LINE_BYTES}.",
            "Check that it is a .hea file.",
            place,
        )
    return header


def _read_wfdb(encoded: bytes, header: bytes, limits: Limits) -> Recording:
    """Read a record of one signal file, under whatever name its header gives."""
    with TemporaryDirectory(dir=IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None) as scratch:
        files = SourceFiles.at(scratch)
        checked = Path(scratch, "record.hea")
        checked.write_bytes(header)
        name = _signal_file(import_wfdb().rdheader(str(checked.with_suffix(""))), limits)
        signal = Path(scratch, files.safe(name).replace("/", "_"))
        if signal == checked:  # it would take the place of the header that was looked at
            raise rejected("signal_corrupt")
        signal.write_bytes(encoded)
        return read_wfdb(files, "record")


def _signal_file(known: Any, limits: Limits) -> str:
    """Return the name of a record's one signal file, by its header as wfdb itself understands it.

    The header says how much wfdb allocates: samples a signal, several of them a frame, or skewed.

    Raises:
        RowRejectedError: it is larger than is read, or no plain record.
    """
    if getattr(known, "n_seg", None) or not known.sig_len or len(set(known.file_name)) != 1:
        raise rejected("signal_corrupt")
    if any(n not in (None, 1) for n in known.samps_per_frame):
        raise rejected("signal_corrupt")
    longest = known.sig_len + max(skew or 0 for skew in known.skew)
    if longest > limits.signal_samples or known.n_sig > MAX_LEADS:
        raise rejected("file_too_large")
    return str(known.file_name[0])


def _read_dicom(encoded: bytes, path: str) -> Recording:
    if not is_dicom(encoded):
        raise rejected("signal_corrupt")
    require_plain_dicom(encoded, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = import_pydicom().dcmread(io.BytesIO(encoded))
        first = dataset.WaveformSequence[0]  # the rhythm; a second group holds median beats
        channels = first.ChannelDefinitionSequence
        signal_CT = np.asarray(dataset.waveform_array(0), np.float64).T
    units = [str(c.ChannelSensitivityUnitsSequence[0].CodeValue) for c in channels]
    return Recording(
        leads=[_lead_of(c) for c in channels],
        rate_hz=float(first.SamplingFrequency),
        signal_CT=to_millivolts(signal_CT, units),
    )


def _lead_of(channel: Any) -> str:
    return LEAD_NAME.sub("", str(channel.ChannelSourceSequence[0].CodeMeaning)).strip()


def _read_csv(encoded: bytes, ecg: SentEcg, path: str) -> Recording:
    """Read one row a sample and one column a lead, under the leads' names."""
    text = encoded.decode("utf-8-sig")
    first, _, rest = text.partition("\n")
    leads = [name.strip().strip('"') for name in first.split(",")]
    if len(leads) > MAX_LEADS:
        raise rejected("signal_corrupt")
    columns_TC = np.loadtxt(io.StringIO(rest), delimiter=",", ndmin=2)
    return _recording(columns_TC.T, leads, ecg, path)


def _read_npy(encoded: bytes, ecg: SentEcg, path: str) -> Recording:
    """Read leads x samples; NumPy would allocate whatever size the header promises."""
    source = io.BytesIO(encoded)
    version = np.lib.format.read_magic(source)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, _, dtype = read_header(source)
    promised = dtype.itemsize * int(np.prod(np.asarray(shape, dtype=object)))
    if dtype.kind not in "iuf" or len(shape) != 2 or promised != len(encoded) - source.tell():
        raise rejected("signal_corrupt")
    signal_CT = np.load(io.BytesIO(encoded), allow_pickle=False).astype(np.float64)
    return _recording(signal_CT, _given_leads(ecg, path), ecg, path)


def _given_leads(ecg: SentEcg, path: str) -> Sequence[str]:
    if ecg.leads is None:
        raise _not_given(f"{path}.leads", "An NPY file does not name its leads.")
    return ecg.leads


def _recording(signal_CT: np.ndarray, leads: Sequence[str], ecg: SentEcg, path: str) -> Recording:
    if ecg.sampling_rate_hz is None:
        raise _not_given(f"{path}.sampling_rate_hz", "The file does not tell its sampling rate.")
    if signal_CT.shape[0] != len(leads):
        raise FieldError(
            f"{path}.file holds {signal_CT.shape[0]} signals for {len(leads)} leads.",
            "Each lead has one: CSV columns, or rows of an NPY array.",
            "Correct the names or the file.",
            f"{path}.leads",
        )
    signal_CT = to_millivolts(signal_CT, [ecg.unit] * len(leads))
    return Recording(leads=leads, rate_hz=ecg.sampling_rate_hz, signal_CT=signal_CT)


def _not_given(path: str, why: str) -> FieldError:
    return FieldError(f"{path} is missing.", why, "Send it beside the file.", path)


def _too_long(limits: Limits, path: str) -> FieldError:
    return FieldError(
        f"{path} is too long a recording.",
        f"At most {limits.signal_samples} samples a lead are read.",
        "Send a part of it.",
        path,
    )
