"""A SYNTHETIC 12-lead ECG of 10 s: a sum of Gaussians a beat, seen from twelve directions.

Nothing here comes from a patient. McSharry et al. 2003 (A dynamical model for generating synthetic
electrocardiogram signals, https://doi.org/10.1109/TBME.2003.808805) let each of P, Q, R, S and T
be a Gaussian bump around its own angle of the heart cycle; their model's solution is

    z(t) = sum_i a_i * exp( -(t - t_i)^2 / (2 b_i^2) )

for a beat whose R peak lies at t = 0, here with times in seconds rather than angles, so that a wide
QRS stays wide at any rate. As in Sameni et al. 2007 (https://doi.org/10.1155/2007/43407) each a_i
is a vector, the heart's dipole, and Dower's matrix projects it onto the leads.

Shape letters: N records, B beats, W waves, T samples, D = 3 for left, down and back.
"""

from dataclasses import dataclass

import numpy as np

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
SAMPLING_RATE_HZ = 100.0
NUM_SAMPLES = 1000
NUM_BEATS = 44
"""Room for 10 s at the fastest rate drawn, and for beats before and after."""

NORMAL = "normal"
FIBRILLATION, TACHYCARDIA, BRADYCARDIA = "fibrillation", "tachycardia", "bradycardia"
AV_BLOCK, RIGHT_BLOCK, LEFT_BLOCK = "av_block", "right_bundle_block", "left_bundle_block"
ST_ELEVATION, ST_DEPRESSION = "st_elevation", "st_depression"
ARRHYTHMIAS = (FIBRILLATION, TACHYCARDIA, BRADYCARDIA)
CONDUCTION = (AV_BLOCK, RIGHT_BLOCK, LEFT_BLOCK)
ST_FINDINGS = (ST_ELEVATION, ST_DEPRESSION)
ABNORMAL = (*ARRHYTHMIAS, *CONDUCTION, *ST_FINDINGS)

SINUS, VENTRICULAR, ATRIAL = 0, 1, 2
"""Where a beat starts; the last two are ectopic."""

P, Q, R, S, T, X = range(6)
"""Waves; X is a further one that only some findings have."""
PEAK_S = np.array([-0.16, -0.032, 0.0, 0.032, 0.27, 0.1])
WIDTH_S = np.array([0.022, 0.009, 0.012, 0.013, 0.045, 0.03])
DIPOLE_MV = np.array(
    [
        [0.07, 0.12, -0.02],
        [-0.10, -0.05, -0.12],
        [0.95, 0.70, 0.25],
        [-0.20, -0.10, 0.50],
        [0.26, 0.20, -0.12],
        [0.0, 0.0, 0.0],
    ]
)
# A ventricular beat: no P, a wide QRS, T against it.
VENTRICULAR_PEAK_S = np.array([-0.16, -0.03, 0.0, 0.07, 0.30, 0.1])
VENTRICULAR_WIDTH_S = np.array([0.02, 0.02, 0.034, 0.035, 0.06, 0.03])
VENTRICULAR_DIPOLE_MV = np.array(
    [
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [-0.60, 1.00, -0.70],
        [0.50, -0.50, 0.60],
        [0.35, -0.45, 0.35],
        [0.0, 0.0, 0.0],
    ]
)
# Rows I, II, V1 ... V6: Dower et al. 1980, https://doi.org/10.1016/S0022-0736(80)80047-0
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EcgFindings:
    """What N records show."""

    kind: np.ndarray
    """NORMAL or one of ABNORMAL, (N,) str."""
    strength: np.ndarray
    """How marked an abnormal kind is, (N,), 0 to 1."""
    num_ectopic: np.ndarray
    """Ectopic beats, (N,) int."""
    ectopic_origin: np.ndarray
    """VENTRICULAR or ATRIAL, (N,): where those beats start."""

    @classmethod
    def of(
        cls, kind: np.ndarray, strength: float = 1.0, num_ectopic: int = 0, origin: int = SINUS
    ) -> "EcgFindings":
        """Return findings with the same strength and ectopic beats in all records."""
        n = len(kind)
        return cls(
            kind=np.asarray(kind),
            strength=np.full(n, strength),
            num_ectopic=np.full(n, num_ectopic),
            ectopic_origin=np.full(n, origin),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """When the beats of N records come, and where they start."""

    peak_s: np.ndarray
    """R peaks, (N, B), rising; the first lie before the record starts."""
    origin: np.ndarray
    """SINUS, VENTRICULAR or ATRIAL, (N, B)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waves:
    """The waves of a beat of N records; times relative to the R peak."""

    peak_s: np.ndarray
    """(N, W)."""
    width_s: np.ndarray
    """(N, W)."""
    dipole_mv: np.ndarray
    """(N, W, D)."""


def draw_ecgs(findings: EcgFindings, rng: np.random.Generator) -> np.ndarray:
    """Draw a noise-free record for each entry of ``findings``.

    Returns:
        (N, 12, T) float32, millivolt, leads in the order of ``LEADS``.
    """
    rhythm = draw_rhythm(findings, rng)
    waves = draw_waves(findings, rhythm, rng)
    dipole_NDT = _beats(rhythm, waves) + _fibrillatory_waves(findings, rng)
    return project(dipole_NDT).astype(np.float32)


def draw_rhythm(f: EcgFindings, rng: np.random.Generator) -> Rhythm:
    """Draw R peaks: sinus rhythm that breathes, the arrhythmias, and early ectopic beats."""
    n = len(f.kind)
    rate = rng.uniform(54, 98, n)
    rate = np.where(f.kind == TACHYCARDIA, 98 + 42 * f.strength + rng.uniform(-4, 4, n), rate)
    rate = np.where(f.kind == BRADYCARDIA, 54 - 18 * f.strength + rng.uniform(-2, 2, n), rate)
    beat = np.arange(NUM_BEATS)
    breath = np.sin(beat * rng.uniform(0.9, 1.8, (n, 1)) + rng.uniform(0, 2 * np.pi, (n, 1)))
    variation = rng.uniform(0.005, 0.05, (n, 1)) * breath
    variation += 0.01 * rng.standard_normal((n, NUM_BEATS))
    irregular = (0.22 * f.strength)[:, None] * rng.standard_normal((n, NUM_BEATS))
    variation = np.where((f.kind == FIBRILLATION)[:, None], irregular, variation)
    interval = 60 / rate[:, None] * np.exp(variation.clip(-0.5, 0.6))
    first = -rng.uniform(1, 2, (n, 1))
    origin = _ectopic_beats(f, first + interval.cumsum(1), rng)
    early = np.where(origin == SINUS, 1.0, rng.uniform(0.55, 0.72, (n, 1)))
    # The sinus node keeps its own time, so a ventricular beat is followed by a long pause.
    pause = np.where(np.roll(origin, 1, 1) == VENTRICULAR, rng.uniform(1.2, 1.4, (n, 1)), 1.0)
    return Rhythm(peak_s=first + (interval * early * pause).cumsum(1), origin=origin)


def _ectopic_beats(f: EcgFindings, peak_s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return each beat's origin, (N, B); ectopic beats lie well within the record, not in a row."""
    inside = (peak_s > 1.0) & (peak_s < NUM_SAMPLES / SAMPLING_RATE_HZ - 1.0)
    inside &= (np.arange(NUM_BEATS) + rng.integers(0, 2, (len(f.kind), 1))) % 2 == 0
    chance = np.where(inside, rng.random(peak_s.shape), -1.0)
    rank = (-chance).argsort(1).argsort(1)
    chosen = inside & (rank < f.num_ectopic[:, None])
    return np.where(chosen, f.ectopic_origin[:, None], SINUS)


def draw_waves(f: EcgFindings, rhythm: Rhythm, rng: np.random.Generator) -> Waves:
    """Draw the beat of each record: everyone's own axis, sizes and times, and the findings."""
    n = len(f.kind)
    peak = np.tile(PEAK_S, (n, 1))
    width = WIDTH_S * rng.uniform(0.85, 1.2, (n, 6))
    length = np.linalg.norm(DIPOLE_MV, axis=1)[:, None]
    dipole = DIPOLE_MV * rng.uniform(0.6, 1.4, (n, 6, 1))
    dipole += 0.14 * length * rng.standard_normal((n, 6, 3))
    peak[:, P] += rng.uniform(-0.03, 0.03, n)
    # QT shortens with the square root of the interval (Bazett).
    interval = np.median(np.diff(rhythm.peak_s, axis=1), axis=1)
    peak[:, T] *= np.sqrt(interval.clip(0.4, 1.3)) * rng.uniform(0.94, 1.06, n) + 0.05
    _conduction(f, peak, width, dipole)
    _st_segment(f, width, dipole, rng)
    dipole[f.kind == FIBRILLATION, P] = 0.0
    return Waves(peak_s=peak, width_s=width, dipole_mv=_turn(dipole, rng))


def _conduction(f: EcgFindings, peak: np.ndarray, width: np.ndarray, dipole: np.ndarray) -> None:
    """Delay P in AV block; in bundle-branch block widen QRS on the side that comes late."""
    s = f.strength
    at = f.kind == AV_BLOCK
    peak[at, P] -= 0.11 * s[at]
    at = f.kind == RIGHT_BLOCK
    peak[at, X], width[at, X] = 0.075, 0.022
    dipole[at, X] = 0.75 * s[at, None] * np.array([-0.50, 0.05, -0.60])
    at = f.kind == LEFT_BLOCK
    width[at, R] *= 1 + 1.3 * s[at]
    dipole[at, Q] = 0.0
    peak[at, S] += 0.03
    dipole[at, T] *= (1 - 1.3 * s[at])[:, None]


def _st_segment(
    f: EcgFindings, width: np.ndarray, dipole: np.ndarray, rng: np.random.Generator
) -> None:
    """Raise or lower the segment between S and T, over the front or the lower wall."""
    n = len(f.kind)
    front = rng.random((n, 1)) < 0.5
    towards = np.where(front, np.array([0.10, 0.0, -0.30]), np.array([-0.05, 0.32, 0.10]))
    size = (0.75 * f.strength)[:, None]
    for kind, sign in ((ST_ELEVATION, 1.0), (ST_DEPRESSION, -0.8)):
        at = f.kind == kind
        dipole[at, X] = sign * (size * towards)[at]
        width[at, X] = 0.06
    dipole[f.kind == ST_DEPRESSION, T] *= 0.6


def _turn(dipole_NWD: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn all waves of a record by the same small rotation: hearts lie differently."""
    angle = rng.normal(0, 0.22, (len(dipole_NWD), 3))
    for axis in range(3):
        i, j = [k for k in range(3) if k != axis]
        cos, sin = np.cos(angle[:, axis, None]), np.sin(angle[:, axis, None])
        a, b = dipole_NWD[..., i].copy(), dipole_NWD[..., j].copy()
        dipole_NWD[..., i], dipole_NWD[..., j] = cos * a - sin * b, sin * a + cos * b
    return dipole_NWD


def _beats(rhythm: Rhythm, waves: Waves) -> np.ndarray:
    """Return the dipole of all beats over time, (N, D, T), millivolt."""
    n = len(rhythm.peak_s)
    beat, since = _beat_of_sample(rhythm)
    origin = np.take_along_axis(rhythm.origin, beat, 1)
    size = np.ones((n, len(PEAK_S), NUM_SAMPLES))
    size[:, P] = np.where(origin == ATRIAL, -0.7, 1.0)
    size *= (origin != VENTRICULAR)[:, None]
    ventricular = Waves(
        peak_s=np.tile(VENTRICULAR_PEAK_S, (n, 1)),
        width_s=np.tile(VENTRICULAR_WIDTH_S, (n, 1)),
        dipole_mv=np.tile(VENTRICULAR_DIPOLE_MV, (n, 1, 1)),
    )
    foreign = np.broadcast_to((origin == VENTRICULAR)[:, None], size.shape)
    dipole: np.ndarray = _sum_of_gaussians(since, waves, size)
    dipole += _sum_of_gaussians(since, ventricular, foreign)
    return dipole


def _beat_of_sample(rhythm: Rhythm) -> tuple[np.ndarray, np.ndarray]:
    """Return which beat each sample belongs to and its seconds since that R peak, both (N, T).

    A sample belongs to the coming beat from 42 % of the interval before its R peak, at most
    0.42 s, so that a late P wave is still its own.
    """
    time = np.arange(NUM_SAMPLES) / SAMPLING_RATE_HZ
    gap = np.diff(rhythm.peak_s, axis=1, prepend=rhythm.peak_s[:, :1] - 1)
    starts = rhythm.peak_s - 0.42 * np.minimum(gap, 1.0)
    beat = np.stack([np.searchsorted(row, time, "right") - 1 for row in starts]).clip(0)
    return beat, time - np.take_along_axis(rhythm.peak_s, beat, 1)


def _sum_of_gaussians(since_NT: np.ndarray, waves: Waves, size_NWT: np.ndarray) -> np.ndarray:
    """Return sum_i a_i exp(-(t - t_i)^2 / (2 b_i^2)), (N, D, T)."""
    z = (since_NT[:, None] - waves.peak_s[..., None]) / waves.width_s[..., None]
    bumps = size_NWT * np.exp(-0.5 * z**2)
    dipole: np.ndarray = np.matmul(waves.dipole_mv.transpose(0, 2, 1), bumps)
    return dipole


def _fibrillatory_waves(f: EcgFindings, rng: np.random.Generator) -> np.ndarray:
    """Return the unordered 4-8 Hz waves of fibrillating atria, (N, D, T), else zeros."""
    n = len(f.kind)
    time = np.arange(NUM_SAMPLES) / SAMPLING_RATE_HZ
    turns = rng.uniform(4, 8, (n, 1)) * time + 0.3 * np.sin(rng.uniform(1, 3, (n, 1)) * time)
    size = np.where(f.kind == FIBRILLATION, 0.055 * f.strength, 0.0)
    wave = size[:, None] * np.sin(2 * np.pi * turns)
    dipole: np.ndarray = wave[:, None] * np.array([0.3, 1.0, -0.6])[:, None]
    return dipole


def project(dipole_NDT: np.ndarray) -> np.ndarray:
    """Project a dipole onto the twelve leads, (N, 12, T); limb leads obey Einthoven's law."""
    seen = np.matmul(DOWER, dipole_NDT)
    one, two, chest = seen[:, 0], seen[:, 1], seen[:, 2:]
    limb = (one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2)
    return np.concatenate([np.stack(limb, 1), chest], 1)
