"""Images of any kind to 8-bit grey: PNG, JPEG and DICOM.

Sizes are held against their bounds from the header, before a pixel is decoded. Nothing but pixels
leaves: no DICOM tag, no EXIF, no text chunk.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from fedkim_ray.data.readers.dicom_frames import require_one_frame
from fedkim_ray.data.reasons import rejected
from fedkim_ray.errors import EnvironmentProblemError, RowRejectedError

FORMATS = ("PNG", "JPEG")
"""The only Pillow decoders that a stranger's bytes reach."""
MAX_PIXELS = 100_000_000
"""A digital radiograph has up to 20 million."""
BAND_PIXELS = 1 << 18
DICOM_MAGIC = slice(128, 132)


def read_image(encoded: bytes) -> np.ndarray:
    """Decode a PNG, JPEG or DICOM file to (height, width) uint8 grey, bright being dense.

    Raises:
        RowRejectedError: it is none of them, not whole, too large, or of a kind that is not read.
    """
    if encoded[DICOM_MAGIC] == b"DICM":
        grey = _read_dicom(encoded)
    else:
        with _refusing("image_corrupt"):
            grey = _read_plain(encoded)
    if grey.size == 0 or grey.min() == grey.max():
        raise rejected("image_empty")
    return grey


def encode_png(grey: np.ndarray, size_px: int) -> bytes:
    """Scale (height, width) uint8 to a square and return it as a PNG file."""
    image = Image.fromarray(grey)
    if image.size != (size_px, size_px):
        image = image.resize((size_px, size_px), Image.Resampling.BILINEAR, reducing_gap=2.0)
    sink = io.BytesIO()
    image.save(sink, "PNG", compress_level=4)
    return sink.getvalue()


@contextmanager
def _refusing(reason: str) -> Iterator[None]:
    """Turn whatever a decoder raises on hostile bytes into one reason; nobody can list it all."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (RowRejectedError, EnvironmentProblemError):
        raise
    except Image.DecompressionBombError:
        raise rejected("image_too_large") from None
    except Exception:
        raise rejected(reason) from None


def _read_plain(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise rejected("image_too_large")
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith(("I", "F")):
            return to_grey(np.asarray(image))
        return np.asarray(image.convert("L"))


def to_grey(
    values: np.ndarray, window: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> np.ndarray:
    """Map values linearly to 0..255, the least to 0 and the greatest to 255.

    Band by band: a whole image in double precision would take eight bytes a pixel, several times.

    Args:
        values: Of any shape.
        window: What values are seen through; each alone, whatever its neighbours.
    """
    flat = values.reshape(-1)
    bands = [slice(start, start + BAND_PIXELS) for start in range(0, flat.size, BAND_PIXELS)]
    grey = np.zeros(flat.shape, np.uint8)
    ends = [(seen.min(), seen.max()) for seen in (window(flat[band]) for band in bands)]
    low = float(min((least for least, _ in ends), default=0.0))
    high = float(max((greatest for _, greatest in ends), default=0.0))
    factor = 255.0 / (high - low) if high > low else 0.0
    for band in bands:
        seen = np.asarray(window(flat[band]), np.float64)
        grey[band] = np.rint((seen - low) * factor)
    return grey.reshape(values.shape)


def _read_dicom(encoded: bytes) -> np.ndarray:
    """Apply the modality's and the reader's window, and turn MONOCHROME1 (white is 0) around."""
    pydicom = import_pydicom()
    with _refusing("image_corrupt"):
        dataset = pydicom.dcmread(io.BytesIO(encoded))
        if "PixelData" not in dataset:
            raise rejected("image_corrupt")
        _require_small(dataset)
    with _refusing("image_unsupported"):
        require_one_frame(dataset)
        grey = _windowed(dataset)
    return 255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey


def import_pydicom() -> Any:
    """Return pydicom.

    Raises:
        EnvironmentProblemError: it is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise EnvironmentProblemError(
            "pydicom is not installed.",
            "DICOM files are read with it.",
            "In the project: `pip install -c constraints.txt '.[importers]'`.",
        ) from None
    return pydicom


def _require_small(dataset: Any) -> None:
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    if frames != 1:
        raise rejected("image_unsupported")
    if int(dataset.Rows) * int(dataset.Columns) > MAX_PIXELS:
        raise rejected("image_too_large")


def _windowed(dataset: Any) -> np.ndarray:
    """Return (height, width) uint8 after modality LUT and VOI LUT; colour as its luma."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    pixels = dataset.pixel_array
    if pixels.ndim == 3:
        colour = Image.fromarray(pixels.astype(np.uint8, copy=False))
        return to_grey(np.asarray(colour.convert("L")))
    return to_grey(pixels, lambda band: apply_voi_lut(apply_modality_lut(band, dataset), dataset))
