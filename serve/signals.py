"""ECGs as sent to ECGs as the model reads them: leads by name, rate, unit and length.

Shape letters: C leads, T samples.
"""

from collections.abc import Sequence

import numpy as np

from fedkim_ray.data.readers.recordings import (
    Recording,
    fit_recording,
    require_possible_rate,
    to_millivolts,
)
from fedkim_ray.data.schema import SignalSpec
from serve.ecg_files import read_ecg_file
from serve.errors import FieldError
from serve.limits import Limits
from serve.rejections import refusing
from serve.sent_ecg import SentEcg

STANDARD_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""Leads that a recording in JSON may hold beside those that the model reads."""
MIN_SECONDS = 1.0


def ecg_array(ecg: SentEcg, spec: SignalSpec, limits: Limits, path: str) -> np.ndarray:
    """Return (C, T) float32 in millivolts, as ``spec`` orders and samples them.

    Raises:
        FieldError: a file cannot be read, a lead is missing, unknown or doubled, rows differ in
            length, or the recording is too short, too long or out of range, or its rate is.
    """
    if ecg.file is not None:
        recording, place = read_ecg_file(ecg, ecg.file, limits, path), f"{path}.file"
        _require_leads(recording.leads, spec, place, strict=False)
    else:
        recording, place = _from_rows(ecg, limits, path), f"{path}.data"
        _require_leads(recording.leads, spec, f"{path}.leads", strict=True)
    with refusing(place):
        require_possible_rate(recording.rate_hz)
        _require_short(recording, spec, limits, place)
        return fit_recording(recording, spec)


def _from_rows(ecg: SentEcg, limits: Limits, path: str) -> Recording:
    """Return the recording that stands in the request itself, once its shape is right."""
    rows, leads, rate_hz = ecg.rows, ecg.leads or [], ecg.sampling_rate_hz or 0.0
    lengths = {len(row) for row in rows}
    least = int(MIN_SECONDS * rate_hz)
    if len(rows) != len(leads):
        came, expected = f"{len(rows)} rows", f"one row for each of {len(leads)} leads"
    elif len(lengths) != 1:
        came, expected = "rows of different lengths", "as many samples in each row"
    elif min(lengths) < least or max(lengths) > limits.signal_samples:
        came = f"{max(lengths)} samples a lead"
        expected = f"{least} to {limits.signal_samples} of them"
    else:
        signal_CT = to_millivolts(np.asarray(rows, np.float64), [ecg.unit] * len(rows))
        return Recording(leads=leads, rate_hz=rate_hz, signal_CT=signal_CT)
    raise FieldError(
        f"{path}.data has {came}.", f"Expected {expected}.", "Correct it.", f"{path}.data"
    )


def _require_short(recording: Recording, spec: SignalSpec, limits: Limits, path: str) -> None:
    """Refuse a recording that would have too many samples at the model's rate."""
    seconds = recording.signal_CT.shape[1] / recording.rate_hz
    if seconds * spec.sampling_rate_hz > limits.signal_samples:
        raise FieldError(
            f"{path} is too long a recording.",
            f"At most {limits.signal_samples} samples a lead are read, as sent and at the model's "
            f"{spec.sampling_rate_hz:g} Hz.",
            "Send a part of it.",
            path,
        )


def _require_leads(leads: Sequence[str], spec: SignalSpec, path: str, strict: bool) -> None:
    """Hold lead names against what the model reads; ``strict`` refuses names that nobody knows."""
    came = [name.strip().lower() for name in leads]
    known = {name.lower() for name in (*spec.leads, *STANDARD_LEADS)}
    strange = [name for name in leads if name.strip().lower() not in known]
    missing = [name for name in spec.leads if name.lower() not in came]
    if strict and strange:
        problem = f"has the unknown lead {strange[0][:20]!r}"
    elif missing:
        problem = f"lacks {', '.join(missing)}"
    elif len(set(came)) < len(came):
        problem = "names a lead twice"
    else:
        return
    raise FieldError(
        f"{path} {problem}.",
        f"The model reads {', '.join(spec.leads)}; other standard leads may be there too.",
        "Name each row of the recording by its lead.",
        path,
    )
