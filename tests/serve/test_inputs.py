"""Inputs: what is decoded, and that each malformed one is refused by the name of its field."""

import base64
import io
import pickle
import struct
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from fedkim_ray.data.demo.tiny import SPEC
from fedkim_ray.data.loading import decode_image
from fedkim_ray.data.readers.images import encode_png, read_image
from fedkim_ray.data.schema import FeatureSpec, SeriesSpec, SignalSpec
from fedkim_ray.data.tasks import task_table
from fedkim_ray.errors import EnvironmentProblemError
from serve.errors import FieldError
from serve.images import image_array
from serve.inputs import RawInput, to_example
from serve.limits import Limits
from serve.schemas import Ecg
from serve.sent_ecg import SentEcg
from serve.series import series_arrays
from serve.signals import ecg_array

LIMITS = Limits(image_bytes=10_000, image_pixels=10_000, text_chars=100)
TASKS = task_table()
IMAGE = SPEC.image
LEADS = SignalSpec(leads=("I", "aVR"), sampling_rate_hz=100, num_samples=200)
LABS = SeriesSpec(
    hours=3,
    features=(
        FeatureSpec(name="sodium", unit="mmol/L", low=80, high=200),
        FeatureSpec(name="glucose", unit="mg/dL", low=0, high=2000),
    ),
)


def data_url(encoded: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(encoded).decode()


def png(side: int, kind: type = np.uint8) -> bytes:
    """An image whose left half is black and whose right half is white."""
    grey = np.zeros((side, side), kind)
    grey[:, side // 2 :] = np.iinfo(kind).max
    sink = io.BytesIO()
    Image.fromarray(grey).save(sink, "PNG")
    return sink.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises ``width x height`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def ecg(
    data: Sequence[Sequence[float]], leads: Sequence[str] = ("I", "aVR"), **more: object
) -> SentEcg:
    values = {"leads": list(leads), "sampling_rate_hz": 100, "data": [list(r) for r in data]}
    return SentEcg.of(Ecg.model_validate(values | more))


# ---- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_black_is_zero_and_white_is_one_at_any_depth(kind: type) -> None:
    assert IMAGE is not None
    decoded = image_array(data_url(png(40, kind)), IMAGE, LIMITS, "image")
    assert decoded.shape == (IMAGE.size_px, IMAGE.size_px)
    assert (decoded[:, 0] == 0.0).all()
    assert (decoded[:, -1] == 1.0).all()


def test_a_dicom_radiograph_is_read_like_the_importers_read_it() -> None:
    pydicom_data = pytest.importorskip("pydicom.data")
    path = pydicom_data.get_testdata_file("CT_small.dcm", download=False)
    with open(path, "rb") as file:
        encoded = file.read()
    assert IMAGE is not None
    url = "data:application/dicom;base64," + base64.b64encode(encoded).decode()
    decoded = image_array(url, IMAGE, Limits(), "image")
    expected = decode_image(encode_png(read_image(encoded), IMAGE.size_px), IMAGE.size_px)
    np.testing.assert_array_equal(decoded, expected)
    with pytest.raises(FieldError, match="too many pixels"):
        image_array(url, IMAGE, Limits(image_pixels=128 * 128 - 1), "image")


def size_behind_its_pixels() -> bytes:
    """A DICOM file that says how large its image is where a look at its head does not find it."""
    pydicom = pytest.importorskip("pydicom")
    path = pydicom.data.get_testdata_file("CT_small.dcm", download=False)
    whole = pydicom.dcmread(path)
    size = [struct.pack("<HH2sHH", 0x28, tag, b"US", 2, 8) for tag in (0x10, 0x11)]
    kept = pydicom.Dataset()
    for name in ("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored"):
        kept.add(whole[name])
    kept.PixelRepresentation, kept.PixelData = 0, bytes(128)
    kept.file_meta = whole.file_meta
    sink = io.BytesIO()
    pydicom.dcmwrite(sink, kept, enforce_file_format=True)
    return sink.getvalue() + b"".join(size)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://example.org/x.png", "no data: URL.*inside the request"),
        ("data:text/html;base64,AAAA", "no data: URL"),
        ("data:image/png;base64,@@@@", "not valid base64"),
        (data_url(b"no image"), "cannot be decoded"),
        (data_url(png(40)[:-30]), "cannot be decoded"),
        (data_url(b"\0" * 20_000), "too large.*10000 bytes"),
        (data_url(bomb(200, 200)), "too many pixels"),
        (data_url(bomb(12_000, 12_000)), "too many pixels"),
        (data_url(bomb(60_000, 60_000)), "too many pixels"),
        (data_url(b"GIF89a" + b"\0" * 40), "cannot be decoded"),
        (data_url(b"\0" * 128 + b"DICM" + b"1.2.840.10008.1.2.1.99"), "deflated DICOM"),
        (data_url(b"\0" * 128 + b"DICM" + b"\0" * 5000 + b"1.2.840.10008.1.2.1.99"), "deflated"),
        (data_url(b"\0" * 128 + b"DICM" + b"\0" * 99), "cannot be decoded"),
        (data_url(size_behind_its_pixels()), "cannot be decoded"),
    ],
    ids=[
        "remote",
        "html",
        "base64",
        "junk",
        "torn",
        "bytes",
        "bomb",
        "big",
        "huge",
        "gif",
        "deflated",
        "deflated-far",
        "dicom",
        "size-behind",
    ],
)
def test_a_bad_image_names_its_field(url: str, problem: str) -> None:
    assert IMAGE is not None
    with pytest.raises(FieldError, match=problem) as caught:
        image_array(url, IMAGE, LIMITS, "inputs[0].image")
    assert caught.value.field == "inputs[0].image"
    assert "inputs[0].image" in str(caught.value)


def test_a_service_without_pydicom_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise EnvironmentProblemError("pydicom is not installed.", "DICOM needs it.", "Install it.")

    monkeypatch.setattr("serve.images.import_pydicom", absent)
    with pytest.raises(FieldError, match="pydicom is not installed"):
        image_array(data_url(b"\0" * 128 + b"DICM"), IMAGE, LIMITS, "image")


def test_two_large_images_are_decoded_at_once_and_no_third(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most = 0, 0

    def read(_: bytes) -> np.ndarray:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.02)
        at_once -= 1
        return np.eye(2, dtype=np.uint8)

    def decode(_: int) -> None:
        assert IMAGE is not None
        image_array(data_url(png(40)), IMAGE, LIMITS, "image")

    monkeypatch.setattr("serve.images.LARGE_PIXELS", 40 * 40 - 1)
    monkeypatch.setattr("serve.images.read_image", read)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(decode, range(6)))
    assert most <= 2


# ---- ECGs ---------------------------------------------------------------------------------------


def test_leads_are_found_by_name_and_microvolts_become_millivolts() -> None:
    recorded = ecg([[9.0] * 200, [2000.0] * 200, [1000.0] * 200], ["V1", "AVR", "i"], unit="uV")
    signal = ecg_array(recorded, LEADS, LIMITS, "ecg")
    assert signal.dtype == np.float32
    np.testing.assert_array_equal(signal[:, 0], [1.0, 2.0])


def test_a_short_recording_is_padded_and_a_long_one_cut_at_the_end() -> None:
    rising = list(range(300))
    assert ecg_array(ecg([rising, rising]), LEADS, LIMITS, "ecg")[0, -1] == 199
    short = ecg_array(ecg([[1.0] * 150] * 2), LEADS, LIMITS, "ecg")
    assert short.shape == (2, 200)
    assert (short[:, :150] == 1.0).all()
    assert (short[:, 150:] == 0.0).all()


@pytest.mark.parametrize(
    ("recorded", "field", "problem"),
    [
        (ecg([[0.0] * 200] * 2, ["I", "II"]), "ecg.leads", "lacks aVR"),
        (ecg([[0.0] * 200] * 3, ["I", "aVR", "EEG"]), "ecg.leads", "unknown lead 'EEG'"),
        (ecg([[0.0] * 200] * 3, ["I", "aVR", "i"]), "ecg.leads", "twice"),
        (ecg([[0.0] * 200]), "ecg.data", "1 rows.*one row for each of 2 leads"),
        (ecg([[0.0] * 200, [0.0] * 199]), "ecg.data", "different lengths"),
        (ecg([[0.0] * 99] * 2), "ecg.data", "99 samples.*100 to"),
        (ecg([[5000.0] * 200] * 2), "ecg.data", "too large for the unit"),
        (ecg([[1e300] * 200] * 2), "ecg.data", "too large for the unit"),
    ],
)
def test_a_bad_ecg_names_its_field(recorded: SentEcg, field: str, problem: str) -> None:
    with pytest.raises(FieldError, match=problem) as caught:
        ecg_array(recorded, LEADS, LIMITS, "ecg")
    assert caught.value.field == field


def test_a_recording_of_ten_seconds_travels_in_four_bytes_a_sample() -> None:
    recorded = ecg([[0.1] * 1000] * 12, [str(lead) for lead in range(12)])
    assert len(pickle.dumps(recorded)) < 4 * 12 * 1000 + 4000
    np.testing.assert_array_equal(recorded.rows[0], np.float32(0.1))


# ---- time series --------------------------------------------------------------------------------


def test_values_land_on_their_hour_and_feature() -> None:
    values, observed = series_arrays(
        {"glucose": [90.0, None], "sodium": 140.0}, LABS, LIMITS, "series.lab"
    )
    np.testing.assert_array_equal(values, [[140, 90], [0, 0], [0, 0]])
    np.testing.assert_array_equal(observed, [[True, True], [False] * 2, [False] * 2])


@pytest.mark.parametrize(
    ("table", "field", "problem"),
    [
        ({"natrium": 140.0}, "series.lab.natrium", "'natrium'.*sodium, glucose"),
        ({"sodium": [140.0] * 4}, "series.lab.sodium", "4 values.*3 hours"),
        ({"sodium": [140.0, 14.0]}, "series.lab.sodium[1]", "between 80 and 200 mmol/L"),
        ({"sodium": None}, "series.lab", "no measured value"),
    ],
)
def test_a_bad_series_names_its_field(
    table: dict[str, float | list[float | None] | None], field: str, problem: str
) -> None:
    with pytest.raises(FieldError, match=problem) as caught:
        series_arrays(table, LABS, LIMITS, "series.lab")
    assert caught.value.field == field
    assert "14.0" not in str(caught.value)


# ---- together -----------------------------------------------------------------------------------


def test_a_task_reads_some_of_its_modalities_and_asks_its_own_question() -> None:
    raw = RawInput(series={"vital": {"vital_0": [1.0]}}, text="Short of breath.")
    example = to_example(raw, TASKS["mortality"], SPEC, LIMITS)
    assert set(example.arrays) == {"vital"}
    assert example.question == TASKS["mortality"].question
    assert example.text == "Short of breath."


@pytest.mark.parametrize(
    ("raw", "task", "field", "problem"),
    [
        (RawInput(image=data_url(png(16))), "ecg_abnormal", "image", "reads signal"),
        (RawInput(question="Is it?"), "ecg_abnormal", "question", "Send at least one"),
        (RawInput(image=data_url(png(16)), question="x" * 101), "covid19", "question", "101"),
    ],
)
def test_inputs_that_do_not_fit_the_task_are_refused(
    raw: RawInput, task: str, field: str, problem: str
) -> None:
    with pytest.raises(FieldError, match=problem) as caught:
        to_example(raw, TASKS[task], SPEC, LIMITS)
    assert caught.value.field == field
