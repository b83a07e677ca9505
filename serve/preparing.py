"""Inputs as sent to inputs as the engine takes them: decoded, held against bounds, encoded.

This is where strangers' bytes meet image and signal decoders, so it can run in processes of its
own: what goes wrong there takes neither the HTTP app nor the model with it.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from fedkim_ray import telemetry
from fedkim_ray.data.loading import Example
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.metric_names import DECODE_SECONDS, ENCODE_SECONDS
from fedkim_ray.types import Task
from serve.encoding import FeatureEncoder
from serve.engine import Features
from serve.inputs import RawInput, require_readable, to_example
from serve.limits import Limits
from serve.remote_images import RemoteImages

AT_ONCE = 16
"""Requests that are prepared at once: each holds images and recordings, some fetched from
elsewhere."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One patient's inputs."""

    example: Example
    """See ``EngineRequest``: beside features its arrays are empty."""
    spec: DataSpec | None
    """What its arrays were laid out by; None beside features."""
    features: Features | None = None
    """The inputs encoded; None where the engine is to encode them."""


class Preparer(Protocol):
    """Decodes inputs."""

    async def prepare(
        self, raws: Sequence[RawInput], task: Task, encoded: bool = True
    ) -> list[Prepared]:
        """Return every patient's inputs, in order.

        Args:
            raws: One a patient.
            task: What is asked about them.
            encoded: Whether to encode them where that can be done here; False leaves it to the
                engine, whose encoders may be another bundle's.

        Raises:
            FieldError: an input is malformed, out of bounds, or not one that the task reads.
        """
        ...


class LocalPreparer:
    """Decodes in threads of this process, so that a large image holds up nobody else's request."""

    def __init__(
        self,
        spec: Callable[[], Awaitable[DataSpec]],
        limits: Limits,
        encoder: FeatureEncoder | None = None,
    ) -> None:
        """Keep what decoding needs.

        Args:
            spec: Gives shapes and units of the bundle's inputs.
            limits: Bounds of one request.
            encoder: Encodes what was decoded; left to the engine where None.
        """
        self.spec = spec
        self.limits = limits
        self.remote = RemoteImages(limits)
        self.encoder = encoder
        self._places = asyncio.Semaphore(AT_ONCE)

    async def prepare(
        self, raws: Sequence[RawInput], task: Task, encoded: bool = True
    ) -> list[Prepared]:
        """Return every patient's inputs, in order; see ``Preparer``."""
        spec = await self.spec()
        for raw in raws:
            require_readable(raw, task, spec, self.limits)  # before any host is asked for an image
        given_up = threading.Event()  # a thread goes on when nobody waits for it any longer
        encoder = self.encoder if encoded else None
        async with self._places:
            raws = await self.remote.inline(raws)
            try:
                return await asyncio.to_thread(self._prepare, raws, task, spec, encoder, given_up)
            finally:
                given_up.set()

    def _prepare(
        self,
        raws: Sequence[RawInput],
        task: Task,
        spec: DataSpec,
        encoder: FeatureEncoder | None,
        given_up: threading.Event,
    ) -> list[Prepared]:
        examples = self._decode(raws, task, spec, given_up)
        if encoder is None or given_up.is_set():
            return [Prepared(example, spec) for example in examples]
        started = time.perf_counter()
        features = encoder.encode(examples)
        telemetry.observe(ENCODE_SECONDS, time.perf_counter() - started)
        return [Prepared(_emptied(e), None, own) for e, own in zip(examples, features, strict=True)]

    def _decode(
        self, raws: Sequence[RawInput], task: Task, spec: DataSpec, given_up: threading.Event
    ) -> list[Example]:
        examples = []
        for raw in raws:
            if given_up.is_set():
                break
            started = time.perf_counter()
            examples.append(to_example(raw, task, spec, self.limits))
            telemetry.observe(DECODE_SECONDS, time.perf_counter() - started)
        return examples


def _emptied(example: Example) -> Example:
    """Return an example that says what it carries and nothing more: its features go along."""
    nothing = np.empty(0, np.float32)
    return replace(example, arrays=dict.fromkeys(example.arrays, nothing), observed={})
