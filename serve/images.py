"""Images as sent to images as the model reads them: the importers' own decoders, after the bounds.

Pixels are counted in the header before one of them is decoded.
"""

import io
import re
import threading
import warnings
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from PIL import Image

from fedkim_ray.data.loading import decode_image
from fedkim_ray.data.readers.images import (
    DICOM_MAGIC,
    FORMATS,
    encode_png,
    import_pydicom,
    read_image,
)
from fedkim_ray.data.reasons import rejected
from fedkim_ray.data.schema import ImageSpec
from fedkim_ray.errors import EnvironmentProblemError
from serve.base64_field import decode_base64
from serve.errors import FieldError
from serve.limits import Limits
from serve.rejections import refusing

DATA_URL = re.compile(r"data:(?:image/(?:png|jpeg|jpg)|application/dicom);base64,", re.IGNORECASE)
DEFLATED = b"1.2.840.10008.1.2.1.99"
"""A transfer syntax that packs the whole data set, header and all: nothing announces its size."""
LARGE_PIXELS = 4_000_000
_large_ones = threading.BoundedSemaphore(2)
"""Larger images are decoded two at a time: each takes some bytes a pixel."""


def image_array(url: str, spec: ImageSpec, limits: Limits, path: str) -> np.ndarray:
    """Decode a data: URL to (S, S) float32 in [0, 1], as the importers would have stored it.

    Raises:
        FieldError: it is no base64, too large, or no whole PNG, JPEG or DICOM image.
    """
    encoded = _file_bytes(url, limits, path)
    num_pixels = _require_few_pixels(encoded, limits, path)
    room: AbstractContextManager[object]
    room = _large_ones if num_pixels > LARGE_PIXELS else nullcontext()
    with refusing(path), room:
        grey = read_image(encoded)
    return decode_image(encode_png(grey, spec.size_px), spec.size_px)


def is_dicom(encoded: bytes) -> bool:
    """Return whether a file says that it is DICOM."""
    return encoded[DICOM_MAGIC] == b"DICM"


def require_plain_dicom(encoded: bytes, path: str) -> None:
    """Refuse a DICOM file that unpacks to a size which nothing announces.

    Raises:
        FieldError: its transfer syntax is deflated.
    """
    if DEFLATED in encoded:  # wherever: nothing bounds the elements before the transfer syntax
        raise FieldError(
            f"{path} is a deflated DICOM file.",
            "Its data set stands uncompressed in the file; its pixels may be compressed.",
            "Export it in another transfer syntax.",
            path,
        )


def _file_bytes(url: str, limits: Limits, path: str) -> bytes:
    opening = DATA_URL.match(url)
    if opening is None:
        raise FieldError(
            f"{path} is no data: URL of a PNG, JPEG or DICOM image.",
            "Images are sent inside the request.",
            "Send data:image/png;base64,… or data:image/jpeg;base64,….",
            path,
        )
    return decode_base64(url[opening.end() :], limits.image_bytes, path)


def _require_few_pixels(encoded: bytes, limits: Limits, path: str) -> int:
    """Return how many pixels an image has, by its header."""
    too_many = FieldError(
        f"{path} is an image of too many pixels.",
        f"At most {limits.image_pixels} pixels are decoded.",
        "Scale the image down.",
        path,
    )
    try:
        num_pixels = _dicom_pixels(encoded, path) if is_dicom(encoded) else _plain_pixels(encoded)
    except FieldError:
        raise
    except EnvironmentProblemError:
        with refusing(path):
            raise
    except Image.DecompressionBombError:
        raise too_many from None
    except Exception:  # decoders meet hostile bytes here and fail in ways nobody has listed
        if is_dicom(encoded):  # its reader might find, behind the pixels, what is not found here
            with refusing(path):
                raise rejected("image_corrupt") from None
        num_pixels = 0  # whatever it is, the reader refuses it and says why
    if num_pixels > limits.image_pixels:
        raise too_many
    return num_pixels


def _plain_pixels(encoded: bytes) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            return image.width * image.height


def _dicom_pixels(encoded: bytes, path: str) -> int:
    require_plain_dicom(encoded, path)
    wanted = ["Rows", "Columns"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = import_pydicom().dcmread(
            io.BytesIO(encoded), stop_before_pixels=True, specific_tags=wanted
        )
    return int(header.Rows) * int(header.Columns)
