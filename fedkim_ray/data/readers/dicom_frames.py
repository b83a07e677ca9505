"""The one frame of a DICOM image, held against its announced size before it is unpacked.

Decoders unpack what a compressed stream holds, whatever Rows and Columns promise.
"""

import io
import struct
from itertools import islice
from typing import Any

from PIL import Image

from fedkim_ray.data.reasons import rejected

STREAMS = ("JPEG", "JPEG2000")
"""What Pillow finds the size of; some of them it cannot decode."""
JPEG_LS = b"\xff\xd8\xff\xf7"
RLE_HEADER_BYTES = 64


def require_one_frame(dataset: Any) -> None:
    """Refuse more pixels than the header announces, without decoding one.

    Args:
        dataset: A pydicom data set with pixel data.

    Raises:
        RowRejectedError: there are further frames, or the frame has another size.
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        bits = rows * columns * int(dataset.SamplesPerPixel) * int(dataset.BitsAllocated)
        if 8 * len(dataset.PixelData) >= 2 * bits:
            raise rejected("image_unsupported")
        return
    frame = _only_frame(dataset)
    if syntax.name == "RLE Lossless":
        _require_short_runs(frame, rows * columns)
    elif _stream_size(frame) != (columns, rows):
        raise rejected("image_corrupt")


def _only_frame(dataset: Any) -> bytes:
    from pydicom.encaps import generate_frames

    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    frames = generate_frames(dataset.PixelData, number_of_frames=1, extended_offsets=offsets)
    first = list(islice(frames, 2))
    if len(first) != 1:
        raise rejected("image_unsupported")
    return first[0]


def _stream_size(frame: bytes) -> tuple[int, int]:
    """Return width and height as a JPEG, JPEG-LS or JPEG 2000 stream gives them."""
    if frame.startswith(JPEG_LS):
        height, width = struct.unpack(">HH", frame[7:11])
        return width, height
    with Image.open(io.BytesIO(frame), formats=STREAMS) as image:
        return image.size


def _require_short_runs(frame: bytes, num_pixels: int) -> None:
    """Refuse run lengths (DICOM PS3.5, G.3) that would unpack to twice the pixels, in any segment.

    A segment has one byte of each pixel's sample; some writers pad it.
    """
    (num_segments,) = struct.unpack("<L", frame[:4])
    starts = struct.unpack("<15L", frame[4:RLE_HEADER_BYTES])[:num_segments]
    for start, stop in zip(starts, (*starts[1:], len(frame)), strict=True):
        if _unpacked_length(frame[start:stop], 2 * num_pixels) >= 2 * num_pixels:
            raise rejected("image_corrupt")


def _unpacked_length(segment: bytes, enough: int) -> int:
    """Return how many bytes a segment unpacks to, counted no further than ``enough``."""
    place = length = 0
    while place < len(segment) and length < enough:
        head = segment[place]
        length += head + 1 if head < 128 else (257 - head) % 129
        place += head + 2 if head < 128 else 1 + (head > 128)
    return length
