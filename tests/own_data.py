"""A hospital's folder as the example mapping expects it, with made-up patients."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

HEADER = (
    "visit_no", "patient_no", "hospital", "gender", "age", "cath", "complaint", "xray", "ecg",
    "troponin",
)  # fmt: skip


def write_own_data(folder: Path, num_patients: int = 60, visits: int = 2) -> None:
    """Write ``patients.csv``, ``vitals.csv``, images and electrocardiograms."""
    (folder / "files").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with (
        (folder / "patients.csv").open("w", newline="") as patients,
        (folder / "vitals.csv").open("w", newline="") as vitals,
    ):
        table, hours = csv.writer(patients), csv.writer(vitals)
        table.writerow(HEADER)
        hours.writerow(("visit_no", "hours", "what", "value"))
        for visit in range(num_patients * visits):
            ill = (visit // visits) % 2
            table.writerow(_row(visit, visit // visits, ill))
            _write_image(folder / f"files/{visit}.png", ill, rng)
            _write_ecg(folder / f"files/{visit}.csv", ill, rng)
            for hour in range(4):
                hours.writerow((visit, hour, "pulse", 80 + 30 * ill + hour))
            hours.writerow((visit, 2, "temperature", 98.6))


def _row(visit: int, patient: int, ill: int) -> tuple[object, ...]:
    site = ("St Mary", "Harbor")[patient % 4 // 2]
    answer, troponin = (("none", 8), ("done", 900))[ill]
    files = (f"files/{visit}.png", f"files/{visit}.csv")
    who = (f"P{patient:04d}", site, "FM"[patient % 3 == 0], 20 + patient)
    return (visit, *who, answer, "Chest pain, sudden", *files, troponin)


def _write_image(path: Path, ill: int, rng: np.random.Generator) -> None:
    grey = rng.normal(90 + 60 * ill, 20, (80, 72)).clip(0, 255)
    Image.fromarray(grey.astype(np.uint8)).save(path)


def _write_ecg(path: Path, ill: int, rng: np.random.Generator) -> None:
    """Ten seconds of two leads and a column of time, 250 Hz, microvolts."""
    t = np.arange(2500) / 250
    wave = 500 * np.sin(2 * np.pi * (1 + ill) * t)
    columns = np.stack([t, wave + rng.normal(0, 20, 2500), -wave], 1)
    np.savetxt(path, columns, "%.3f", ",", header="time,II,I", comments="")
