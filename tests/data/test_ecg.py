"""The ECG model: reproducible, lawful, and each finding where it belongs."""

import numpy as np
import pytest

from fedkim_ray.data.demo import ecg
from fedkim_ray.data.demo.ecg import LEADS, EcgFindings, draw_ecgs, draw_rhythm, project
from fedkim_ray.data.demo.ecg_noise import (
    LEAD_GROUPS,
    MARKED_MV,
    NOISE_KINDS,
    STEP_MV,
    Recorder,
    marked_noise,
    record,
    unit_noise,
)
from fedkim_ray.data.demo.ecg_tasks import ecg_rows
from fedkim_ray.data.tasks import task_table

NUM = 60


def findings(kind: str, **values: float) -> EcgFindings:
    return EcgFindings.of(np.full(NUM, kind), **values)


def draw(kind: str, **values: float) -> np.ndarray:
    return draw_ecgs(findings(kind, **values), np.random.default_rng(0))


def beats_per_minute(kind: str) -> np.ndarray:
    peaks = draw_rhythm(findings(kind), np.random.default_rng(0)).peak_s
    return 60 / np.diff(peaks, axis=1)


def lead(signals: np.ndarray, name: str) -> np.ndarray:
    return signals[:, LEADS.index(name)]


def test_the_seed_decides_everything() -> None:
    np.testing.assert_array_equal(draw(ecg.NORMAL), draw(ecg.NORMAL))
    other = draw_ecgs(findings(ecg.NORMAL), np.random.default_rng(1))
    assert draw(ecg.NORMAL).shape == (NUM, 12, 1000)
    assert not np.allclose(draw(ecg.NORMAL), other)


# A dipole of 1 mV to the left: Dower gives I = 0.632 and II = 0.235, Einthoven the others.
def test_limb_leads_obey_einthoven() -> None:
    seen = project(np.array([1.0, 0.0, 0.0]).reshape(1, 3, 1))[0, :, 0]
    expected = [0.632, 0.235, -0.397, -0.4335, 0.5145, -0.081]
    np.testing.assert_allclose(seen[:6], expected, atol=1e-9)
    signals = draw(ecg.NORMAL)
    np.testing.assert_allclose(
        lead(signals, "I") + lead(signals, "III"), lead(signals, "II"), atol=1e-5
    )


def test_r_peaks_are_where_the_rhythm_says() -> None:
    rng = np.random.default_rng(0)
    peaks = draw_rhythm(findings(ecg.NORMAL), rng).peak_s[0]
    signal = lead(draw(ecg.NORMAL), "V5")[0]
    inside = peaks[(peaks > 0.2) & (peaks < 9.8)]
    for peak in inside:
        at = round(peak * 100)
        around = signal[at - 15 : at + 16]
        assert abs(int(np.argmax(around)) - 15) <= 3


def test_rates() -> None:
    assert 50 < np.median(beats_per_minute(ecg.NORMAL)) < 100
    assert np.median(beats_per_minute(ecg.TACHYCARDIA)) > 120
    assert np.median(beats_per_minute(ecg.BRADYCARDIA)) < 45
    spread = [beats_per_minute(kind).std(1).mean() for kind in (ecg.NORMAL, ecg.FIBRILLATION)]
    assert spread[1] > 3 * spread[0]


def test_left_bundle_block_widens_qrs() -> None:
    def above_half(kind: str) -> float:
        v6 = np.abs(lead(draw(kind), "V6"))
        return float((v6 > v6.max(1, keepdims=True) / 2).mean())

    assert above_half(ecg.LEFT_BLOCK) > 1.5 * above_half(ecg.NORMAL)


def test_right_bundle_block_adds_a_late_wave_in_v1() -> None:
    difference = lead(draw(ecg.RIGHT_BLOCK), "V1") - lead(draw(ecg.NORMAL), "V1")
    assert difference.max(1).mean() > 0.3
    assert difference.min(1).mean() > -0.1


def test_st_depression_lowers_and_elevation_raises() -> None:
    normal = draw(ecg.NORMAL).mean(2)
    toward = np.abs(draw(ecg.ST_ELEVATION).mean(2) - normal).mean()
    assert toward > 0.005
    rise = draw(ecg.ST_ELEVATION).mean(2) - normal
    fall = draw(ecg.ST_DEPRESSION).mean(2) - normal
    assert (rise * fall).sum() < 0


def test_a_finding_of_no_strength_is_hardly_there() -> None:
    for kind in (ecg.ST_ELEVATION, ecg.RIGHT_BLOCK):
        faint = np.abs(draw(kind, strength=0.0) - draw(ecg.NORMAL)).max()
        assert faint < 1e-5, kind


@pytest.mark.parametrize("origin", [ecg.VENTRICULAR, ecg.ATRIAL])
def test_ectopic_beats_come_early_and_are_as_many_as_asked(origin: int) -> None:
    asked = findings(ecg.NORMAL, num_ectopic=2, origin=origin)
    rhythm = draw_rhythm(asked, np.random.default_rng(0))
    ectopic = rhythm.origin == origin
    np.testing.assert_array_equal(ectopic.sum(1), 2)
    gap = np.diff(rhythm.peak_s, axis=1)
    ratio = gap[ectopic[:, 1:]].mean() / gap[~ectopic[:, 1:]].mean()
    assert ratio < 0.75
    assert not (ectopic[:, 1:] & ectopic[:, :-1]).any(), "never two in a row"


def test_noise_has_unit_size() -> None:
    for kind in NOISE_KINDS:
        noise = unit_noise(kind, 20, np.random.default_rng(0))
        assert noise.shape == (20, 12, 1000)
        assert noise.std() == pytest.approx(1.0, abs=0.15), kind


def test_marked_noise_stays_in_its_leads() -> None:
    kinds, leads = np.array(["muscle noise", "None"]), np.array(["chest leads", "all leads"])
    noise = marked_noise(kinds, leads, np.random.default_rng(0))
    assert noise[0, 6:].std() == pytest.approx(MARKED_MV["muscle noise"], rel=0.1)
    assert not noise[0, :6].any()
    assert not noise[1].any()
    assert [int(mask.sum()) for mask in LEAD_GROUPS.values()] == [6, 6, 12]


def test_a_recorder_stores_whole_steps() -> None:
    stored = record(draw(ecg.NORMAL), Recorder(smooth_samples=0.7), np.random.default_rng(0))
    assert stored.dtype == np.float32
    np.testing.assert_allclose(stored / STEP_MV, np.round(stored / STEP_MV), atol=1e-3)


@pytest.mark.parametrize("task_id", ["ecg_abnormal", "ectopic_beats"])
def test_rows_of_a_yes_no_task(task_id: str) -> None:
    task = task_table()[task_id]
    rows = ecg_rows(task, "test/x", Recorder(), 100, 0.3, np.random.default_rng(0))
    assert np.mean([row["label"] for row in rows]) == pytest.approx(0.3, abs=0.1)
    assert all(row["answer"] == task.answer_words[row["label"]] for row in rows)
    assert rows[0]["signal"].shape == (12, 1000)


def test_rows_of_the_noise_questions() -> None:
    task = task_table()["signal_noise"]
    rows = ecg_rows(task, "test/x", Recorder(), 100, 0.5, np.random.default_rng(0))
    kinds = {row["answer"] for row in rows if row["question"] == task.question}
    assert kinds <= {kind.capitalize() for kind in NOISE_KINDS} | {"None"}
    assert all(row["text"] and "label" not in row for row in rows)
