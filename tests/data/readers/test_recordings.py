"""Leads, rate, unit and length of electrocardiograms."""

import numpy as np
import pytest

from fedkim_ray.data.readers.recordings import Recording, fit_recording, resample, to_millivolts
from fedkim_ray.data.schema import SignalSpec
from fedkim_ray.errors import RowRejectedError

SPEC = SignalSpec(leads=("I", "II"), sampling_rate_hz=100, num_samples=200)


def recording(
    signal: np.ndarray, leads: tuple[str, ...] = ("I", "II"), rate: float = 100.0
) -> Recording:
    return Recording(leads=leads, rate_hz=rate, signal_CT=signal)


def reason(broken: Recording) -> str:
    with pytest.raises(RowRejectedError) as caught:
        fit_recording(broken, SPEC)
    return caught.value.reason


def test_leads_are_ordered_by_name() -> None:
    signal = np.stack([np.full(200, 3.0), np.full(200, 2.0), np.full(200, 1.0)])
    fitted = fit_recording(recording(signal, ("V1", "ii", "I")), SPEC)
    assert fitted[:, 0].tolist() == [1.0, 2.0]
    assert fitted.dtype == np.float32


def test_short_is_filled_and_long_is_cut() -> None:
    fitted = fit_recording(recording(np.ones((2, 150))), SPEC)
    assert fitted[0].sum() == 150
    assert fit_recording(recording(np.ones((2, 999))), SPEC).shape == (2, 200)


def test_resampling_keeps_a_slow_wave() -> None:
    # One hertz, two seconds: 720 samples at 360 Hz are 200 at 100 Hz.
    fast = np.sin(2 * np.pi * np.arange(720) / 360)[None]
    slow = np.sin(2 * np.pi * np.arange(200) / 100)
    assert np.abs(resample(fast, 360, 100)[0] - slow)[5:-5].max() < 0.02


def test_units_become_millivolts() -> None:
    assert to_millivolts(np.ones((3, 1)), ["V", "mV", "uV"]).ravel().tolist() == [1000, 1, 0.001]
    with pytest.raises(RowRejectedError, match="a unit that is not known"):
        to_millivolts(np.ones((1, 1)), ["bpm"])


def test_what_cannot_be_an_ecg_is_rejected() -> None:
    assert reason(recording(np.ones((1, 200)), ("I",))) == "lead_missing"
    assert reason(recording(np.ones((2, 99)))) == "signal_too_short"
    assert reason(recording(np.full((2, 200), np.nan))) == "not_finite"
    assert reason(recording(np.full((2, 200), np.inf))) == "not_finite"
    assert reason(recording(np.full((2, 200), 1500.0))) == "unit_wrong"


@pytest.mark.parametrize("rate_hz", [0.0, 0.1, 10_001.0, -100.0, float("nan"), float("inf")])
def test_a_rate_that_no_ecg_has_is_rejected(rate_hz: float) -> None:
    assert reason(recording(np.ones((2, 200)), rate=rate_hz)) == "rate_impossible"
