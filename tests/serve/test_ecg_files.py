"""Recordings in files: each format gives the same millivolts, and broken ones name their field."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkim_ray.data.importing.files import SourceFiles
from fedkim_ray.data.readers.recordings import Recording
from fedkim_ray.data.readers.wfdb_records import read_wfdb
from fedkim_ray.data.schema import SignalSpec
from serve.errors import FieldError
from serve.limits import Limits
from serve.schemas import Ecg
from serve.sent_ecg import SentEcg
from serve.signals import ecg_array

SPEC = SignalSpec(leads=("I", "II"), sampling_rate_hz=100, num_samples=200)
SIGNAL_CT = np.stack([np.linspace(-1, 1, 200), np.linspace(0.5, -0.5, 200)])
"""Millivolts of leads I and II."""
LIMITS = Limits()


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def ecg(format_: str, content: bytes, header: bytes | None = None, **more: Any) -> SentEcg:
    file = {"format": format_, "data": b64(content)}
    if header is not None:
        file["header"] = b64(header)
    return SentEcg.of(Ecg.model_validate({"file": file} | more))


def npy(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def csv(signal_CT: np.ndarray, leads: str = "II,I") -> bytes:
    lines = "\n".join(f"{two:.6f},{one:.6f}" for one, two in signal_CT.T)
    return f"{leads}\n{lines}\n".encode()


def wfdb_record(folder: Path) -> tuple[bytes, bytes]:
    wfdb = pytest.importorskip("wfdb")
    units, names, formats = ["mV", "mV"], ["II", "I"], ["16", "16"]
    wfdb.wrsamp("r", 100, units, names, SIGNAL_CT[::-1].T, fmt=formats, write_dir=str(folder))
    return (folder / "r.dat").read_bytes(), (folder / "r.hea").read_bytes()


def test_csv_npy_and_wfdb_give_the_same_millivolts(tmp_path: Path) -> None:
    beside = {"leads": ["I", "II"], "sampling_rate_hz": 100}
    data, header = wfdb_record(tmp_path)
    came = [
        ecg("csv", csv(1000 * SIGNAL_CT), sampling_rate_hz=100, unit="uV"),
        ecg("npy", npy(SIGNAL_CT.astype(np.float32)), **beside),
        ecg("wfdb", data, header),
    ]
    for one in came:
        np.testing.assert_allclose(ecg_array(one, SPEC, LIMITS, "ecg"), SIGNAL_CT, atol=1e-4)


def test_a_wfdb_record_is_unpacked_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, header = wfdb_record(tmp_path)
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr("serve.ecg_files.IN_MEMORY", str(memory))
    homes = []

    def watched(files: SourceFiles, name: str) -> Recording:
        homes.append(Path(files.folder.path).parent)
        return read_wfdb(files, name)

    monkeypatch.setattr("serve.ecg_files.read_wfdb", watched)
    ecg_array(ecg("wfdb", data, header), SPEC, LIMITS, "ecg")
    assert homes == [memory]
    assert list(memory.iterdir()) == []


def test_a_dicom_waveform_tells_its_own_leads_rate_and_unit() -> None:
    pydicom = pytest.importorskip("pydicom")
    path = pydicom.data.get_testdata_file("waveform_ecg.dcm", download=False)
    spec = SignalSpec(leads=("I", "II"), sampling_rate_hz=1000, num_samples=10_000)
    signal = ecg_array(ecg("dicom", Path(path).read_bytes()), spec, LIMITS, "ecg")
    # The file's first sample of lead I is 80 steps of 1.25 microvolts.
    assert signal[0, 0] == pytest.approx(0.1)
    assert signal.shape == (2, 10_000)


def huge_npy() -> bytes:
    """A header of a hundred bytes that promises 8 terabytes."""
    sink = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (2, 500_000_000_000)}
    np.lib.format.write_array_header_1_0(sink, header)
    return sink.getvalue()


HEADER = b"r 2 100 200\nr.dat 16 1000(0)/mV 16 0 0 0 0 I\nr.dat 16 1000(0)/mV 16 0 0 0 0 II\n"
SKEWED = b"r 1 100 200\nr.dat 16:5000000000 1000(0)/mV 16 0 0 0 0 I\n"
FRAMES = b"r 1 100 200\n r.dat 516x10000 1000(0)/mV 16 0 0 0 0 I\n"
COUNTER = b"r 1 5/6(7)899999999 20\nr.dat 516 1000(0)/mV 16 0 0 0 0 I\n"
"""Headers of a hundred bytes that promise gigabytes, each as wfdb alone understands it."""
BESIDE = {"leads": ["I", "II"], "sampling_rate_hz": 100}


@pytest.mark.parametrize(
    ("recorded", "field", "problem"),
    [
        (ecg("csv", b"I,II\n1,x\n", sampling_rate_hz=100), "ecg.file.data", "cannot be decoded"),
        (ecg("csv", csv(SIGNAL_CT)), "ecg.sampling_rate_hz", "does not tell"),
        (ecg("csv", csv(SIGNAL_CT, "I,V1"), sampling_rate_hz=100), "ecg.file", "lacks II"),
        (ecg("csv", csv(np.full((2, 200), np.nan)), sampling_rate_hz=100), "ecg.file", "NaN"),
        (ecg("npy", huge_npy(), **BESIDE), "ecg.file.data", "cannot be decoded"),
        (ecg("npy", npy(np.zeros((2, 200), "O")), **BESIDE), "ecg.file.data", "cannot be decoded"),
        (ecg("npy", npy(SIGNAL_CT), sampling_rate_hz=100), "ecg.leads", "does not name"),
        (ecg("npy", npy(SIGNAL_CT[:1]), **BESIDE), "ecg.leads", "1 signals for 2 leads"),
        (ecg("wfdb", b"\0" * 800), "ecg.file.header", "is missing"),
        (ecg("wfdb", b"", b"1" * 256), "ecg.file.header", "a line of 256 bytes"),
        (ecg("wfdb", b"", HEADER + b"a" * 256), "ecg.file.header", "a line of 256 bytes"),
        (ecg("wfdb", b"", HEADER + b"#\n" * 32768), "ecg.file.header", "At most 65536 bytes"),
        (ecg("wfdb", b"\0" * 8, HEADER), "ecg.file.data", "cannot be decoded"),
        (
            ecg("wfdb", b"", HEADER.replace(b" 200\n", b" 999999999999\n")),
            "ecg.file.data",
            "too large",
        ),
        (ecg("wfdb", b"\0" * 400, SKEWED), "ecg.file.data", "too large"),
        (ecg("wfdb", b"\0" * 800, HEADER.replace(b" 16 ", b" 16:1 ", 1)), "ecg.file", "no gaps"),
        (ecg("wfdb", SKEWED, b"r 1 100 200\nrecord.hea 16\n"), "ecg.file.data", "be decoded"),
        (ecg("wfdb", b"\0" * 400, FRAMES), "ecg.file.data", "cannot be decoded"),
        (ecg("wfdb", b"\0" * 400, COUNTER), "ecg.file.data", "too large"),
        (ecg("wfdb", b"", HEADER.replace(b"r.dat", b"../x")), "ecg.file.data", "cannot be decoded"),
        (ecg("wfdb", b"\0" * 800, HEADER.replace(b" 100 ", b" 0.1 ")), "ecg.file", "sampling rate"),
        (
            ecg("wfdb", b"\0" * 800, HEADER.replace(b" 100 ", b" 2000000000 ")),
            "ecg.file",
            "sampling rate",
        ),
        (ecg("wfdb", b"", b"r/2 2 100 200\na 100\nb 100\n"), "ecg.file.data", "cannot be decoded"),
        (ecg("wfdb", b"", b"\xff" * 50), "ecg.file.data", "cannot be decoded"),
        (ecg("dicom", b"\0" * 128 + b"DICM"), "ecg.file.data", "cannot be decoded"),
        (ecg("dicom", b"x"), "ecg.file.data", "cannot be decoded"),
    ],
)
def test_a_broken_file_names_its_field(recorded: SentEcg, field: str, problem: str) -> None:
    with pytest.raises(FieldError, match=problem) as caught:
        ecg_array(recorded, SPEC, LIMITS, "ecg")
    assert caught.value.field == field


def test_a_long_recording_is_refused() -> None:
    few = Limits(signal_samples=150)
    with pytest.raises(FieldError, match="At most 150 samples"):
        ecg_array(ecg("npy", npy(SIGNAL_CT), **BESIDE), SPEC, few, "ecg")


def test_a_recording_that_is_long_at_the_models_rate_is_refused() -> None:
    slow = BESIDE | {"sampling_rate_hz": 50}  # 200 samples are 400 at 100 Hz
    assert ecg_array(ecg("npy", npy(SIGNAL_CT), **slow), SPEC, LIMITS, "ecg").shape == (2, 200)
    with pytest.raises(FieldError, match=r"At most 399 samples.*100 Hz") as caught:
        ecg_array(ecg("npy", npy(SIGNAL_CT), **slow), SPEC, Limits(signal_samples=399), "ecg")
    assert caught.value.field == "ecg.file"


@pytest.mark.parametrize("body", [{}, {"data": [[1.0]]}, {"data": [[1.0]], "file": {}}])
def test_an_ecg_has_one_source(body: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"data|file|format"):
        Ecg.model_validate(body)
