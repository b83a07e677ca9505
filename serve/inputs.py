"""From the parts of a request to an ``Example``, held against the bundle's specification.

Every bound is checked before the work that it bounds: an image's pixels are read from its header
before it is decoded. Errors name the field and never a value.
"""

import base64
import binascii
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from fedkim_ray.data.loading import Example, decode_image
from fedkim_ray.data.modalities import MODALITIES
from fedkim_ray.data.schema import DataSpec, FeatureSpec, ImageSpec, SeriesSpec
from fedkim_ray.types import Modality, Task
from serve.errors import FieldError
from serve.limits import Limits
from serve.schemas import Ecg, Hourly
from serve.signals import ecg_array

DATA_URL = re.compile(r"data:image/(?:png|jpeg|jpg);base64,", re.IGNORECASE)
FORMATS = ("PNG", "JPEG")
"""The only decoders that a stranger's bytes reach."""
DEEP_MODES = ("I", "F")
"""Pillow's names for 16 and 32 bits, which conversion to grey would saturate to white."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawInput:
    """One patient's inputs as sent, and where in the request each stands."""

    image: str | None = None
    ecg: Ecg | None = None
    series: Mapping[Modality, Mapping[str, Hourly]] = field(default_factory=dict)
    question: str = ""
    text: str | None = None
    paths: Mapping[str, str] = field(default_factory=dict)
    """Path in the request of ``image``, ``ecg``, ``series`` and ``question``."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Encoded modalities that came, in the fixed order."""
        came = {"image": self.image, "signal": self.ecg} | dict(self.series)
        return tuple(m for m in MODALITIES if came.get(m) is not None)

    def path_of(self, name: str) -> str:
        """Return where ``name`` stands in the request."""
        return self.paths.get(name, name)


def to_example(raw: RawInput, task: Task, spec: DataSpec, limits: Limits) -> Example:
    """Decode one patient's inputs for a task.

    Raises:
        FieldError: an input is malformed, out of bounds, or not one that the task reads; the
            text names the field.
    """
    _require_fitting(raw, task, spec)
    _require_short(raw, limits)
    arrays: dict[Modality, np.ndarray] = {}
    observed: dict[Modality, np.ndarray] = {}
    if raw.image is not None and spec.image:
        arrays["image"] = image_array(raw.image, spec.image, limits, raw.path_of("image"))
    if raw.ecg is not None and spec.signal:
        arrays["signal"] = ecg_array(raw.ecg, spec.signal, limits, raw.path_of("ecg"))
    for modality, table in raw.series.items():
        path = f"{raw.path_of('series')}.{modality}"
        arrays[modality], observed[modality] = series_arrays(
            table, spec.series[modality], limits, path
        )
    return Example(
        sample_id="",
        subject_id="",
        task=task.id,
        question=raw.question or task.question,
        answer="",
        label=None,
        text=raw.text,
        arrays=arrays,
        observed=observed,
    )


def _require_fitting(raw: RawInput, task: Task, spec: DataSpec) -> None:
    """Refuse modalities that the bundle or the task does not read, and a task without input."""
    readable = [m for m in task.modalities if m in spec.modalities]
    for modality in raw.modalities:
        if modality not in readable:
            name = {"image": "image", "signal": "ecg"}.get(modality, "series")
            raise FieldError(
                f"{raw.path_of(name)} carries {modality!r}.",
                f"Task {task.id!r} of this bundle reads {', '.join(readable) or 'text'}.",
                "Leave it out, or name another task.",
                raw.path_of(name),
            )
    if readable and not raw.modalities:
        raise FieldError(
            f"Nothing that task {task.id!r} reads has come.",
            f"It reads {', '.join(readable)}.",
            "Send at least one of them.",
            raw.path_of("question"),
        )


def _require_short(raw: RawInput, limits: Limits) -> None:
    num_chars = len(raw.question) + len(raw.text or "")
    if num_chars > limits.text_chars:
        raise FieldError(
            f"The text has {num_chars} characters.",
            f"At most {limits.text_chars} are read.",
            "Shorten it.",
            raw.path_of("question"),
        )


def image_array(url: str, spec: ImageSpec, limits: Limits, path: str) -> np.ndarray:
    """Decode a data: URL to (S, S) float32 in [0, 1].

    Raises:
        FieldError: it is remote, no base64, too large, or no whole PNG or JPEG image.
    """
    encoded = _image_bytes(url, limits, path)
    _require_readable(encoded, limits, path)
    try:
        return decode_image(encoded, spec.size_px)
    except Exception:  # decoders meet hostile bytes here and fail in ways nobody has listed
        raise _no_image(path) from None


def _image_bytes(url: str, limits: Limits, path: str) -> bytes:
    opening = DATA_URL.match(url)
    if opening is None:
        raise FieldError(
            f"{path} is no data: URL of a PNG or JPEG image.",
            "Images are sent inside the request; this server fetches nothing from elsewhere.",
            "Send data:image/png;base64,… or data:image/jpeg;base64,….",
            path,
        )
    if (len(url) - opening.end()) * 3 // 4 > limits.image_bytes:
        raise FieldError(
            f"{path} holds too large an image file.",
            f"At most {limits.image_bytes} bytes are read.",
            "Send a smaller file.",
            path,
        )
    try:
        return base64.b64decode(url[opening.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise FieldError(
            f"{path} is not valid base64.",
            "What follows 'base64,' is standard base64 with padding.",
            "Encode the file's bytes again.",
            path,
        ) from None


def _require_readable(encoded: bytes, limits: Limits, path: str) -> None:
    """Hold size and depth against the bounds, from the image's header alone."""
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            width, height = image.size
            mode = image.mode
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(limits, path) from None
    except Exception:
        raise _no_image(path) from None
    if width * height > limits.image_pixels:
        raise _too_many_pixels(limits, path)
    if mode.startswith(DEEP_MODES):
        raise FieldError(
            f"{path} has more than 8 bits a channel.",
            "Which of its grey values matter is the sender's to say, not a guess of this server.",
            "Apply the window and export 8 bits.",
            path,
        )


def _too_many_pixels(limits: Limits, path: str) -> FieldError:
    return FieldError(
        f"{path} is an image of too many pixels.",
        f"At most {limits.image_pixels} pixels are decoded.",
        "Scale the image down.",
        path,
    )


def _no_image(path: str) -> FieldError:
    return FieldError(
        f"{path} cannot be decoded as an image.",
        "It is a whole PNG or JPEG file.",
        "Export the image again.",
        path,
    )


def series_arrays(
    table: Mapping[str, Hourly], spec: SeriesSpec, limits: Limits, path: str
) -> tuple[np.ndarray, np.ndarray]:
    """Lay features out as (H, F) values and (H, F) bool, True where something was measured.

    Raises:
        FieldError: a feature is unknown, too long, or has an impossible value.
    """
    hours = min(spec.hours, limits.series_hours)
    index = {feature.name: i for i, feature in enumerate(spec.features)}
    values = np.zeros((spec.hours, len(spec.features)), np.float32)
    observed = np.zeros(values.shape, bool)
    for name, hourly in table.items():
        if name not in index:
            raise FieldError(
                f"{path} has a feature {name[:40]!r}.",
                f"It has {', '.join(index)}.",
                "Use the names that /v1/tasks gives.",
                f"{path}.{name[:40]}",
            )
        column = hourly if isinstance(hourly, list) else [hourly]
        feature = spec.features[index[name]]
        _require_possible(column, feature, hours, f"{path}.{name}")
        for hour, value in enumerate(column):
            if value is not None:
                values[hour, index[name]] = value
                observed[hour, index[name]] = True
    if not observed.any():
        raise FieldError(
            f"{path} holds no measured value.", "It holds at least one.", "Leave it out.", path
        )
    return values, observed


def _require_possible(
    column: Sequence[float | None], feature: FeatureSpec, hours: int, path: str
) -> None:
    if len(column) > hours:
        raise FieldError(
            f"{path} has {len(column)} values.",
            f"The model reads {hours} hours.",
            "Send the last hours that fit.",
            path,
        )
    for hour, value in enumerate(column):
        if value is not None and not feature.low <= value <= feature.high:
            raise FieldError(
                f"{path}[{hour}] is not a possible value.",
                f"It lies between {feature.low:g} and {feature.high:g} {feature.unit}.",
                "Check the unit.",
                f"{path}[{hour}]",
            )
