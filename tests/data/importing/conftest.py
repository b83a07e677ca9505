"""A small source in the layout of MIT-BIH, written with wfdb."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import wfdb

RATE_HZ = 360
SECONDS = 20

WriteRecord = Callable[..., None]


@pytest.fixture(scope="session")
def write_record() -> WriteRecord:
    return _write_record


def _write_record(
    folder: Path, name: str, symbols: str = "NN", leads: tuple[str, str] = ("MLII", "V1")
) -> None:
    """Write twenty seconds with one beat of each symbol, evenly spread: two windows."""
    folder.mkdir(parents=True, exist_ok=True)
    t = np.arange(SECONDS * RATE_HZ) / RATE_HZ
    signal = np.stack([np.sin(2 * np.pi * 1.2 * t), 0.5 * np.cos(2 * np.pi * t)], 1)
    wfdb.wrsamp(
        name,
        fs=RATE_HZ,
        units=["mV"] * 2,
        sig_name=list(leads),
        p_signal=signal,
        fmt=["16"] * 2,
        write_dir=str(folder),
    )
    at = (np.arange(len(symbols)) + 0.5) * (SECONDS * RATE_HZ / len(symbols))
    wfdb.wrann(name, "atr", sample=at.astype(int), symbol=list(symbols), write_dir=str(folder))


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four records, a quarter of them with a ventricular beat; do not write into it."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(24):
        _write_record(folder, str(300 + number), "NV" if number % 4 == 0 else "NN")
    return folder
