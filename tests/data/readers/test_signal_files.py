"""Electrocardiograms in DICOM, CSV and NPY files; WFDB is tested with the importer of MIT-BIH."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.readers.recordings import fit_recording
from fedkim_ray.data.readers.signal_files import (
    SignalFacts,
    read_dicom_waveform,
    read_signal_file,
)
from fedkim_ray.data.schema import SignalSpec
from fedkim_ray.errors import RowRejectedError

FACTS = SignalFacts(rate_hz=100, unit="uV", leads=("I", "II"))


def read(folder: Path, name: str, facts: SignalFacts | None = FACTS) -> np.ndarray:
    return read_signal_file(SourceFiles.at(str(folder)), name, facts).signal_CT


def test_a_real_dicom_waveform_has_twelve_leads() -> None:
    path = get_testdata_file("waveform_ecg.dcm", download=False)
    assert path is not None
    recording = read_dicom_waveform(Path(str(path)).read_bytes())
    assert recording.leads == (
        ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    )
    assert (recording.rate_hz, recording.signal_CT.shape) == (1000.0, (12, 10000))
    # Lead II is the sum of I and III, sample by sample, up to rounding.
    one, two, three = recording.signal_CT[:3]
    assert np.abs(one + three - two).max() < 0.01
    assert 0.1 < np.abs(recording.signal_CT).max() < 10.0
    fitted = fit_recording(recording, SignalSpec(leads=("V6", "I"), num_samples=1000))
    assert fitted.shape == (2, 1000)


def test_a_broken_dicom_waveform_is_rejected() -> None:
    path = get_testdata_file("waveform_ecg.dcm", download=False)
    content = Path(str(path)).read_bytes()
    for broken in (b"", content[:2000], content[: len(content) // 2]):
        with pytest.raises(RowRejectedError, match="cannot be decoded"):
            read_dicom_waveform(broken)


def test_csv_columns_are_leads_in_the_given_unit(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("I,II\n1000,0\n2000,-500\n")
    assert read(tmp_path, "e.csv").tolist() == [[1.0, 2.0], [0.0, -0.5]]


@pytest.mark.parametrize("text", ["", "I,II\n1,x\n", "I,II\n1\n"])
def test_a_csv_that_is_no_table_of_numbers_is_rejected(tmp_path: Path, text: str) -> None:
    (tmp_path / "e.csv").write_text(text)
    with pytest.raises(RowRejectedError, match="cannot be decoded"):
        read(tmp_path, "e.csv")


def test_npy_arrays_may_lie_either_way(tmp_path: Path) -> None:
    signal = np.array([[1000.0, 2000.0, 3000.0], [0.0, 0.0, 0.0]])
    np.save(tmp_path / "a.npy", signal)
    np.save(tmp_path / "b.npy", signal.T.astype(np.float32))
    assert read(tmp_path, "a.npy").tolist() == read(tmp_path, "b.npy").tolist()
    assert read(tmp_path, "a.npy")[0].tolist() == [1.0, 2.0, 3.0]


def test_objects_in_an_array_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{"a": 1}, None], object), allow_pickle=True)
    with pytest.raises(RowRejectedError, match="cannot be decoded"):
        read(tmp_path, "o.npy")


def test_without_facts_a_bare_array_says_too_little(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 200)))
    with pytest.raises(RowRejectedError, match="cannot be decoded"):
        read(tmp_path, "a.npy", None)
