"""Electrocardiograms as recorded, and as a specification wants them: leads, rate, unit, length.

Shape letters: C leads, T samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.signal import resample_poly

from fedkim_ray.data.reasons import rejected
from fedkim_ray.data.schema import SignalSpec

MILLIVOLTS = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6}
"""Millivolts in one unit, by its name in lower case."""
MAX_MILLIVOLTS = 1000.0
"""Beyond this the unit is wrong: a surface ECG has a few millivolts."""
MIN_SECONDS = 1.0
MIN_RATE_HZ, MAX_RATE_HZ = 10, 10_000
"""Beyond these the rate is wrong, and resampling by it could take any amount of memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One electrocardiogram as it was recorded."""

    leads: Sequence[str]
    rate_hz: float
    signal_CT: np.ndarray
    """Float, in millivolts."""

    def cut(self, start: int, stop: int) -> "Recording":
        """Return the samples from ``start`` to before ``stop``."""
        return Recording(
            leads=self.leads, rate_hz=self.rate_hz, signal_CT=self.signal_CT[:, start:stop]
        )


def to_millivolts(signal_CT: np.ndarray, units: Sequence[str]) -> np.ndarray:
    """Scale each lead by its unit's name.

    Raises:
        RowRejectedError: a unit is not known.
    """
    factors = [MILLIVOLTS.get(unit.strip().lower()) for unit in units]
    if None in factors:
        raise rejected("unit_unknown")
    scaled: np.ndarray = signal_CT * np.array(factors, np.float64)[:, None]
    return scaled


def fit_recording(recording: Recording, spec: SignalSpec) -> np.ndarray:
    """Return (C, T) float32 in millivolts, as ``spec`` orders and samples leads.

    A longer recording is cut at its end, a shorter one is followed by zeros.

    Raises:
        RowRejectedError: a lead is missing, the sampling rate is impossible, a value is not finite
            or far too large, or the recording is too short.
    """
    signal = recording.signal_CT[_lead_rows(recording.leads, spec.leads)]
    require_possible_rate(recording.rate_hz)
    if signal.shape[1] < MIN_SECONDS * recording.rate_hz:
        raise rejected("signal_too_short")
    if not np.isfinite(signal).all():
        raise rejected("not_finite")
    if np.abs(signal).max() > MAX_MILLIVOLTS:
        raise rejected("unit_wrong")
    return fit_length(resample(signal, recording.rate_hz, spec.sampling_rate_hz), spec.num_samples)


def require_possible_rate(rate_hz: float) -> None:
    """Refuse a sampling rate that no electrocardiogram has, NaN among them.

    Raises:
        RowRejectedError: it is one.
    """
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise rejected("rate_impossible")


def _lead_rows(came: Sequence[str], wanted: Sequence[str]) -> list[int]:
    row_of = {name.strip().lower(): row for row, name in enumerate(came)}
    for name in wanted:
        if name.lower() not in row_of:
            raise rejected("lead_missing", name)
    return [row_of[name.lower()] for name in wanted]


def resample(signal_CT: np.ndarray, rate_hz: float, target_hz: float) -> np.ndarray:
    """Bring a signal to another rate, with a filter against aliasing."""
    ratio = Fraction(target_hz / rate_hz).limit_denominator(1000)
    if ratio == 1:
        return signal_CT
    resampled: np.ndarray = resample_poly(
        signal_CT, ratio.numerator, ratio.denominator, axis=1, padtype="line"
    )
    return resampled


def fit_length(signal_CT: np.ndarray, num_samples: int) -> np.ndarray:
    """Cut or zero-pad at the end to ``num_samples``."""
    cut = signal_CT[:, :num_samples]
    padding = num_samples - cut.shape[1]
    return np.pad(cut, ((0, 0), (0, padding))).astype(np.float32)
