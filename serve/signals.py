"""ECGs as sent to ECGs as the model reads them: leads by name, rate, unit and length."""

from fractions import Fraction

import numpy as np
from scipy.signal import resample_poly

from fedkim_ray.data.schema import SignalSpec
from serve.errors import FieldError
from serve.limits import Limits
from serve.schemas import Ecg

STANDARD_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""Leads that a recording may hold beside those that the model reads."""
MILLIVOLTS = {"mV": 1.0, "uV": 1e-3}
MAX_MILLIVOLTS = 1000.0
"""Beyond this the unit is wrong: a surface ECG has a few millivolts."""
MIN_SECONDS = 1.0


def ecg_array(ecg: Ecg, spec: SignalSpec, limits: Limits, path: str) -> np.ndarray:
    """Return (leads, samples) float32 in millivolts, as ``spec`` orders and samples them.

    Raises:
        FieldError: a lead is missing, unknown or doubled, rows differ in length, or the
            recording is too short, too long or out of range.
    """
    recorded = _rows(ecg, limits, path)
    rows = _rows_by_lead(ecg, spec, f"{path}.leads")
    signal = recorded[rows] * MILLIVOLTS[ecg.unit]
    if np.abs(signal).max() > MAX_MILLIVOLTS:
        raise FieldError(
            f"{path}.data holds more than {MAX_MILLIVOLTS:g} mV.",
            f"It is in {ecg.unit}, as `unit` says.",
            "Check the unit.",
            f"{path}.data",
        )
    return fit(resample(signal, ecg.sampling_rate_hz, spec.sampling_rate_hz), spec.num_samples)


def _rows(ecg: Ecg, limits: Limits, path: str) -> np.ndarray:
    """Return the recording as an array, once its shape is right."""
    lengths = {len(row) for row in ecg.data}
    least = int(MIN_SECONDS * ecg.sampling_rate_hz)
    if len(ecg.data) != len(ecg.leads):
        came, expected = f"{len(ecg.data)} rows", f"one row for each of {len(ecg.leads)} leads"
    elif len(lengths) != 1:
        came, expected = "rows of different lengths", "as many samples in each row"
    elif min(lengths) < least or max(lengths) > limits.signal_samples:
        came = f"{max(lengths)} samples a lead"
        expected = f"{least} to {limits.signal_samples} of them"
    else:
        return np.asarray(ecg.data, np.float64)
    raise FieldError(
        f"{path}.data has {came}.", f"Expected {expected}.", "Correct it.", f"{path}.data"
    )


def _rows_by_lead(ecg: Ecg, spec: SignalSpec, path: str) -> list[int]:
    """Return the row of each lead that the model reads, in the model's order."""
    row_of = {name.strip().lower(): row for row, name in enumerate(ecg.leads)}
    known = {name.lower() for name in (*spec.leads, *STANDARD_LEADS)}
    strange = [f"{name[:20]!r}" for name in ecg.leads if name.strip().lower() not in known]
    missing = [name for name in spec.leads if name.lower() not in row_of]
    if strange:
        came = f"has the unknown lead {strange[0]}"
    elif missing:
        came = f"lacks {', '.join(missing)}"
    elif len(row_of) < len(ecg.leads):
        came = "names a lead twice"
    else:
        return [row_of[name.lower()] for name in spec.leads]
    raise FieldError(
        f"{path} {came}.",
        f"The model reads {', '.join(spec.leads)}; other standard leads may be there too.",
        "Name each row of `data` by its lead.",
        path,
    )


def resample(signal_CT: np.ndarray, rate_hz: float, target_hz: float) -> np.ndarray:
    """Bring a signal to another rate, with a filter against aliasing."""
    ratio = Fraction(target_hz / rate_hz).limit_denominator(1000)
    if ratio == 1:
        return signal_CT
    resampled: np.ndarray = resample_poly(signal_CT, ratio.numerator, ratio.denominator, axis=1)
    return resampled


def fit(signal_CT: np.ndarray, num_samples: int) -> np.ndarray:
    """Cut or zero-pad at the end to ``num_samples``."""
    cut = signal_CT[:, :num_samples]
    padding = num_samples - cut.shape[1]
    return np.pad(cut, ((0, 0), (0, padding))).astype(np.float32)
