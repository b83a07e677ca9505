"""Images to 8-bit grey; what is broken, huge or hostile is refused with a reason."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate

from fedkim_ray.data.packages import fetch_package_file
from fedkim_ray.data.readers.images import encode_png, read_image, to_grey
from fedkim_ray.errors import RowRejectedError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def dicom(syntax: str = pydicom.uid.ExplicitVRLittleEndian, **changes: object) -> bytes:
    """A radiograph of 16 x 16 pixels of 12 bits."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        "PatientName": "Secret^Name",
        "Rows": 16,
        "Columns": 16,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelData": (RAMP.astype(np.uint16) * 16).tobytes(),
    }
    for name, value in {**values, **changes}.items():
        setattr(dataset, name, value)
    sink = io.BytesIO()
    dataset.save_as(sink, enforce_file_format=True)
    return sink.getvalue()


def reason(content: bytes) -> str:
    with pytest.raises(RowRejectedError) as caught:
        read_image(content)
    return caught.value.reason


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size, with hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_plain_images_keep_their_grey() -> None:
    assert (read_image(encoded(Image.fromarray(RAMP))) == RAMP).all()
    lossy = read_image(encoded(Image.fromarray(RAMP), "JPEG", quality=100))
    assert np.abs(lossy - 1.0 * RAMP).max() < 4


def test_sixteen_bits_are_scaled_and_not_cut() -> None:
    deep = Image.fromarray(RAMP.astype(np.uint16) * 100)
    assert (read_image(encoded(deep)) == RAMP).all()


def test_dicom_windows_and_monochrome1() -> None:
    assert (read_image(dicom()) == RAMP).all()
    assert (read_image(dicom(PhotometricInterpretation="MONOCHROME1")) == 255 - RAMP).all()
    # A window from 0 to 2047 makes the brighter half white.
    windowed = read_image(dicom(WindowCenter=1024, WindowWidth=2048))
    assert (windowed.ravel()[128:] == 255).all()
    assert windowed.ravel()[64] == pytest.approx(128, abs=1)


@pytest.mark.slow
def test_a_real_radiograph_is_read() -> None:
    path = fetch_package_file(
        "pydicom-data",
        "1.0.0",
        "data_store/data/RG1_UNCR.dcm",
        "946f28f48b9fbf360196a9b835c8fce83b0c654bf85a5107663c8a61df02e498",
    )
    dataset = pydicom.dcmread(path)
    assert dataset.PhotometricInterpretation == "MONOCHROME1"
    grey = read_image(path.read_bytes())
    assert grey.shape == (dataset.Rows, dataset.Columns)
    # The bone is bright and the air around the body dark, as in any chest film.
    assert grey[:, :20].mean() < grey[400:-400, 700:1100].mean()
    assert grey.std() > 20


def test_broken_files_are_rejected() -> None:
    assert reason(b"") == "image_corrupt"
    assert reason(b"GIF89a" + b"\0" * 100) == "image_corrupt"
    assert reason(encoded(Image.effect_noise((64, 64), 50))[:2000]) == "image_corrupt"
    assert reason(dicom()[:300]) == "image_corrupt"
    assert reason(dicom(PixelData=b"\0\0")) == "image_unsupported"
    assert reason(dicom(NumberOfFrames=3)) == "image_unsupported"
    assert reason(encoded(Image.new("L", (9, 9), 7))) == "image_empty"


def test_huge_images_are_refused_from_their_header() -> None:
    assert reason(png_header(100_000, 100_000)) == "image_too_large"
    assert reason(png_header(12_000, 12_000)) == "image_too_large"
    assert reason(dicom(Rows=60_000, Columns=60_000)) == "image_too_large"


def jpeg(side: int) -> bytes:
    return encoded(
        Image.fromarray(np.arange(side * side, dtype=np.uint8).reshape(side, side)), "JPEG"
    )


def packed(*frames: bytes, syntax: str = pydicom.uid.JPEGBaseline8Bit, **changes: object) -> bytes:
    """A radiograph of 16 x 16 pixels of 8 bits, compressed."""
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    return dicom(syntax, PixelData=encapsulate(list(frames)), **bits, **changes)


def rle(*runs: int) -> bytes:
    """One segment of runs of 128 zeros, and of what is told after them."""
    return struct.pack("<16L", 1, 64, *[0] * 14) + bytes(runs)


def test_compressed_radiographs_are_read() -> None:
    assert np.abs(read_image(packed(jpeg(16))) - 1.0 * RAMP).max() < 16
    ramp = rle(127, *range(128), 127, *range(128, 256))
    assert (read_image(packed(ramp, syntax=pydicom.uid.RLELossless)) == RAMP).all()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (packed(jpeg(64)), "image_corrupt"),
        (packed(b"no stream at all"), "image_unsupported"),
        (packed(jpeg(16), jpeg(16)), "image_unsupported"),
        (packed(jpeg(16), jpeg(16), NumberOfFrames=1), "image_unsupported"),
        (dicom(PixelData=bytes(2 * 512)), "image_unsupported"),
        (packed(rle(*[129, 0] * 1000), syntax=pydicom.uid.RLELossless), "image_corrupt"),
    ],
    ids=["size", "junk", "frames", "one frame", "plain frames", "runs"],
)
def test_more_pixels_than_a_dicom_file_announces_are_not_decoded(
    content: bytes, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[object] = []
    monkeypatch.setattr("fedkim_ray.data.readers.images._windowed", unpacked.append)
    assert reason(content) == expected
    assert unpacked == []


def test_an_image_of_sixteen_bits_takes_little_more_memory_than_it_has() -> None:
    values = np.arange(4_000_000, dtype=np.uint16).reshape(2000, 2000)
    tracemalloc.start()
    try:
        grey = to_grey(values)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (grey.min(), grey.max()) == (0, 255)
    assert peak_bytes < 4 * values.size  # one byte a pixel is the result


def test_a_decompression_bomb_stays_packed() -> None:
    # The image is tiny; the compressed comment beside it unpacks to 200 MB.
    bomb = zlib.compress(b"\0" * 200_000_000, 9)
    data = b"comment\0\0" + bomb
    checksum = struct.pack(">I", zlib.crc32(b"zTXt" + data))
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + checksum
    plain = encoded(Image.fromarray(RAMP))
    assert reason(plain[:33] + chunk + plain[33:]) == "image_corrupt"


def test_nothing_but_pixels_leaves() -> None:
    out = encode_png(read_image(dicom()), 8)
    assert b"Secret" not in out
    assert Image.open(io.BytesIO(out)).size == (8, 8)


def test_grey_spans_the_range() -> None:
    assert to_grey(np.array([[-5.0, 5.0]])).tolist() == [[0, 255]]
