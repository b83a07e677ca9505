"""From the parts of a request to an ``Example``, held against the bundle's specification.

Every bound is checked before the work that it bounds. Errors name the field and never a value.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedkim_ray.data.loading import Example
from fedkim_ray.data.modalities import MODALITIES
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.types import Modality, Task
from serve.errors import FieldError
from serve.field_types import Hourly
from serve.images import image_array
from serve.limits import Limits
from serve.sent_ecg import SentEcg
from serve.series import series_arrays
from serve.signals import ecg_array


@dataclass(frozen=True, slots=True, kw_only=True)
class RawInput:
    """One patient's inputs as sent, and where in the request each stands."""

    image: str | None = None
    """A data: URL."""
    ecg: SentEcg | None = None
    series: Mapping[Modality, Mapping[str, Hourly]] = field(default_factory=dict)
    question: str = ""
    text: str | None = None
    paths: Mapping[str, str] = field(default_factory=dict)
    """Path in the request of ``image``, ``ecg``, ``series``, one of the series, ``question``."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Encoded modalities that came, in the fixed order."""
        came = {"image": self.image, "signal": self.ecg} | dict(self.series)
        return tuple(m for m in MODALITIES if came.get(m) is not None)

    def path_of_modality(self, modality: Modality) -> str:
        """Return where an encoded modality stands in the request."""
        match modality:
            case "image":
                return self.path_of("image")
            case "signal":
                return self.path_of("ecg")
            case _:  # a chat's series may come in several parts
                return self.paths.get(modality, f"{self.path_of('series')}.{modality}")

    def path_of(self, name: str) -> str:
        """Return where ``name`` stands in the request."""
        return self.paths.get(name, name)


def to_example(raw: RawInput, task: Task, spec: DataSpec, limits: Limits) -> Example:
    """Decode one patient's inputs for a task.

    Raises:
        FieldError: an input is malformed, out of bounds, or not one that the task reads; the
            text names the field.
    """
    require_readable(raw, task, spec, limits)
    arrays: dict[Modality, np.ndarray] = {}
    observed: dict[Modality, np.ndarray] = {}
    if raw.image is not None and spec.image:
        arrays["image"] = image_array(raw.image, spec.image, limits, raw.path_of("image"))
    if raw.ecg is not None and spec.signal:
        arrays["signal"] = ecg_array(raw.ecg, spec.signal, limits, raw.path_of("ecg"))
    for modality, table in raw.series.items():
        path = raw.path_of_modality(modality)
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


def require_readable(raw: RawInput, task: Task, spec: DataSpec, limits: Limits) -> None:
    """Hold what shows without decoding against what the task reads.

    Raises:
        FieldError: a modality is none that the task reads, none has come, or the text is long.
    """
    _require_fitting(raw, task, spec)
    require_short(raw, limits)


def _require_fitting(raw: RawInput, task: Task, spec: DataSpec) -> None:
    """Refuse modalities that the bundle or the task does not read, and a task without input."""
    readable = [m for m in task.modalities if m in spec.modalities]
    for modality in raw.modalities:
        if modality not in readable:
            path = raw.path_of_modality(modality)
            raise FieldError(
                f"{path} carries {modality!r}.",
                f"Task {task.id!r} of this bundle reads {', '.join(readable) or 'text'}.",
                "Leave it out, or name another task.",
                path,
            )
    if readable and not raw.modalities:
        raise FieldError(
            f"Nothing that task {task.id!r} reads has come.",
            f"It reads {', '.join(readable)}.",
            "Send at least one of them.",
            raw.path_of("question"),
        )


def require_short(raw: RawInput, limits: Limits) -> None:
    """Hold the words against their bound.

    Raises:
        FieldError: they are too many.
    """
    num_chars = len(raw.question) + len(raw.text or "")
    if num_chars > limits.text_chars:
        raise FieldError(
            f"The text has {num_chars} characters.",
            f"At most {limits.text_chars} are read.",
            "Shorten it.",
            raw.path_of("question"),
        )
