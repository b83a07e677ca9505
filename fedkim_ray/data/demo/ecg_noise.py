"""What an ECG recorder adds: drift, muscle noise, mains hum and loose electrodes.

Shape letters: N records, L leads, T samples.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter

from fedkim_ray.data.demo.ecg import LEADS, NUM_SAMPLES, SAMPLING_RATE_HZ

STEP_MV = 0.005
"""Resolution of the stored signal, that of a common amplifier."""
DRIFT, MUSCLE, HUM, ELECTRODE = "baseline drift", "muscle noise", "mains hum", "electrode motion"
NOISE_KINDS = (DRIFT, MUSCLE, HUM, ELECTRODE)
LEAD_GROUPS = {
    "limb leads": np.arange(len(LEADS)) < 6,
    "chest leads": np.arange(len(LEADS)) >= 6,
    "all leads": np.ones(len(LEADS), bool),
}
MARKED_MV = {DRIFT: 0.5, MUSCLE: 0.15, HUM: 0.2, ELECTRODE: 0.8}
"""Standard deviation of a kind of noise that a reader would complain about."""
HUM_HZ = 49.0
"""Just below half the sampling rate, which shows 50 Hz as beats too."""
ELECTRODE_JUMPS = 0.01
"""Chance that a loose electrode's potential jumps at a sample."""
ELECTRODE_DECAY = 0.95
"""What is left of a jump a sample later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorder:
    """An ECG device: its gain, and the noise that all of its records carry."""

    gain: float = 1.0
    drift_mv: float = 0.1
    muscle_mv: float = 0.045
    hum_mv: float = 0.03
    smooth_samples: float = 0.0
    """Standard deviation of the device's low-pass filter."""


def record(clean_mv: np.ndarray, recorder: Recorder, rng: np.random.Generator) -> np.ndarray:
    """Return what the device stores of noise-free leads: filtered, noisy, in steps.

    Each record has its own amount of each noise, half to one and a half times the device's.
    """
    n = len(clean_mv)
    signal = clean_mv * recorder.gain
    if recorder.smooth_samples:
        signal = gaussian_filter1d(signal, recorder.smooth_samples, axis=2)
    for kind, size in (
        (DRIFT, recorder.drift_mv),
        (MUSCLE, recorder.muscle_mv),
        (HUM, recorder.hum_mv),
    ):
        own = size * rng.uniform(0.5, 1.5, (n, 1, 1))
        signal = signal + own * unit_noise(kind, n, rng)
    return in_steps(signal)


def marked_noise(kinds: np.ndarray, leads: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return noise that a reader would complain about, (N, L, T) millivolt.

    Args:
        kinds: One of ``NOISE_KINDS`` a record; anything else stays without noise, (N,).
        leads: A key of ``LEAD_GROUPS`` a record, (N,).
        rng: Source of everything random.
    """
    noise = np.zeros((len(kinds), len(LEADS), NUM_SAMPLES))
    for kind in NOISE_KINDS:
        at = kinds == kind
        noise[at] = MARKED_MV[kind] * unit_noise(kind, int(at.sum()), rng)
    mask = np.array([LEAD_GROUPS[group] for group in leads]).reshape(-1, len(LEADS), 1)
    masked: np.ndarray = noise * mask
    return masked


def in_steps(signal_mv: np.ndarray) -> np.ndarray:
    """Round to the amplifier's resolution, float32."""
    return (STEP_MV * np.round(signal_mv / STEP_MV)).astype(np.float32)


def unit_noise(kind: str, num_records: int, rng: np.random.Generator) -> np.ndarray:
    """Return noise of one kind with a standard deviation of about 1, (N, L, T)."""
    shape = (num_records, len(LEADS), NUM_SAMPLES)
    time = np.arange(NUM_SAMPLES) / SAMPLING_RATE_HZ
    noise: np.ndarray
    if kind == DRIFT:
        rate_hz = rng.uniform(0.12, 0.4, (num_records, 1, 1))
        phase = rng.uniform(0, 2 * np.pi, (num_records, len(LEADS), 1))
        noise = np.sqrt(2) * np.sin(2 * np.pi * rate_hz * time + phase)
    elif kind == HUM:
        phase = rng.uniform(0, 2 * np.pi, (num_records, 1, 1))
        noise = np.sqrt(2) * np.sin(2 * np.pi * HUM_HZ * time + phase)
    elif kind == MUSCLE:
        noise = rng.standard_normal(shape, np.float32)
    else:  # a loose electrode: the potential jumps and creeps back
        jumps = rng.standard_normal(shape) * (rng.random(shape) < ELECTRODE_JUMPS)
        crept = lfilter([1.0], [1.0, -ELECTRODE_DECAY], jumps, axis=2)
        noise = crept * np.sqrt((1 - ELECTRODE_DECAY**2) / ELECTRODE_JUMPS)
    return np.broadcast_to(noise, shape)
