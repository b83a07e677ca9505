"""Rows of the demo's two yes/no ECG tasks and of the questions about noise."""

import numpy as np

from fedkim_ray.data.demo.ecg import (
    ABNORMAL,
    ATRIAL,
    NORMAL,
    SINUS,
    VENTRICULAR,
    EcgFindings,
    draw_ecgs,
)
from fedkim_ray.data.demo.ecg_noise import (
    LEAD_GROUPS,
    NOISE_KINDS,
    Recorder,
    in_steps,
    marked_noise,
    record,
)
from fedkim_ray.types import Task

Row = dict[str, object]
STRENGTH = (2.0, 1.0)
"""Beta distribution of the strength of an abnormality: most are plain, a few can hardly be seen."""
NUM_ECTOPIC = (2, 6)
"""Range of the number of ectopic beats in 10 s, the upper end excluded."""
ECTOPIC = "ectopic"
ABNORMAL_SHARE = 0.3
"""Share of otherwise abnormal records in the ectopic-beats task, with and without such beats."""
NO_NOISE = "None"
NOTES = (
    "Resting electrocardiogram of ten seconds, recorded on a ward.",
    "Resting electrocardiogram of ten seconds, recorded in an ambulance.",
    "Check before an operation.",
    "Palpitations since this morning.",
)


def ecg_rows(
    task: Task,
    place: str,
    recorder: Recorder,
    num_rows: int,
    share: float,
    rng: np.random.Generator,
) -> list[Row]:
    """Draw rows of an ECG task.

    Args:
        task: ``ecg_abnormal``, ``ectopic_beats`` or ``signal_noise``.
        place: Where the rows will lie; part of their ids.
        recorder: The device that records them.
        num_rows: How many.
        share: Share of positives; ignored by ``signal_noise``.
        rng: Source of everything random.
    """
    if task.kind == "generate":
        return _noise_rows(task, place, recorder, num_rows, rng)
    positive = rng.random(num_rows) < share
    if task.id == "ecg_abnormal":
        kind = np.where(positive, rng.choice([*ABNORMAL, ECTOPIC], num_rows), NORMAL)
        findings = _findings(kind, kind == ECTOPIC, rng)
    else:
        ill = rng.random(num_rows) < ABNORMAL_SHARE
        findings = _findings(np.where(ill, rng.choice(ABNORMAL, num_rows), NORMAL), positive, rng)
    signals = record(draw_ecgs(findings, rng), recorder, rng)
    return [
        _row(task, place, i, signals[i])
        | {"answer": task.answer_words[int(yes)], "label": int(yes), "question": task.question}
        for i, yes in enumerate(positive)
    ]


def _findings(kind: np.ndarray, ectopic: np.ndarray, rng: np.random.Generator) -> EcgFindings:
    n = len(kind)
    origin = rng.choice([VENTRICULAR, ATRIAL], n, p=[0.7, 0.3])
    return EcgFindings(
        kind=np.where(kind == ECTOPIC, NORMAL, kind),
        strength=rng.beta(*STRENGTH, n),
        num_ectopic=np.where(ectopic, rng.integers(*NUM_ECTOPIC, n), 0),
        ectopic_origin=np.where(ectopic, origin, SINUS),
    )


def _noise_rows(
    task: Task, place: str, recorder: Recorder, num_rows: int, rng: np.random.Generator
) -> list[Row]:
    """Draw normal records with one marked kind of noise in one group of leads, or with none."""
    noise = rng.choice([*NOISE_KINDS, NO_NOISE], num_rows)
    leads = rng.choice(list(LEAD_GROUPS), num_rows)
    clean = draw_ecgs(EcgFindings.of(np.full(num_rows, NORMAL)), rng)
    signals = in_steps(record(clean, recorder, rng) + marked_noise(noise, leads, rng))
    rows = []
    for i in range(num_rows):
        question, answer = _question(task, str(noise[i]), str(leads[i]), rng)
        text = str(rng.choice(NOTES))
        row = _row(task, place, i, signals[i])
        rows.append(row | {"question": question, "answer": answer, "text": text})
    return rows


def _question(task: Task, noise: str, leads: str, rng: np.random.Generator) -> tuple[str, str]:
    """Ask which noise, in which leads, or whether a kind is there."""
    choice = rng.integers(3)
    if choice == 0:
        return task.question, noise.capitalize()
    if choice == 1:
        answer = NO_NOISE if noise == NO_NOISE else leads.capitalize()
        return "Which leads of this electrocardiogram are noisy?", answer
    asked = noise if noise != NO_NOISE and rng.random() < 0.5 else str(rng.choice(NOISE_KINDS))
    return f"Does this electrocardiogram show {asked}?", "Yes" if asked == noise else "No"


def _row(task: Task, place: str, index: int, signal: np.ndarray) -> Row:
    name = f"{place}/{index:05d}"
    return {"sample_id": name, "subject_id": name, "task": task.id, "signal": signal}
