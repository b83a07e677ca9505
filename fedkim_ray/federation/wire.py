"""Updates and parameters as bytes: safetensors, with an update's facts as JSON in its header.

The bytes are what crosses to another process, so nothing is unpickled that a client wrote, the
number of bytes that left is known exactly, and any transport can carry them.

The format is safetensors' own (its library reads these bytes), written and read here without a
copy on the way: packing copies each value once, and what is read are views of the bytes.

Source: https://github.com/huggingface/safetensors#format
"""

import json
import math
import warnings
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from fedkim_ray.errors import ClientFailedError
from fedkim_ray.federation.plan import Work
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import Frozen, Params

FORMAT_VERSION = 2
FACTS = "fedkim"
METADATA = "__metadata__"
LENGTH_BYTES = 8
"""A safetensors file starts with the length of its JSON header, little-endian."""
ALIGNMENT = 8
FLOAT32 = "F32"
VALUE_BYTES = 4

NO_UPDATE = (
    *(ValidationError, KeyError, ValueError, TypeError, AttributeError),
    *(OverflowError, RuntimeError, MemoryError),  # sizes beyond any tensor, JSON of endless depth
)
"""What reading bytes that are no update may end with."""

Packed: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
"""Bytes that Ray carries without a copy."""


class UpdateFacts(Frozen):
    """All of an update but its tensors."""

    format_version: int = FORMAT_VERSION
    client_id: str
    round_index: int
    num_examples: dict[str, int]
    metrics: dict[str, float]
    work: Work


def encode_params(params: Params) -> Packed:
    """Return float32 parameters as safetensors."""
    return pack(params)


def decode_params(data: Packed | bytes) -> dict[str, Tensor]:
    """Return the parameters in ``encode_params``' bytes: views that must not be written to."""
    return views(data, read_header(data))


def encode_update(update: ClientUpdate) -> Packed:
    """Return an update as safetensors with its facts in the header."""
    facts = UpdateFacts(
        client_id=update.client_id,
        round_index=update.round_index,
        num_examples=dict(update.num_examples),
        metrics=dict(update.metrics),
        work=update.work,
    )
    return pack(update.delta, {FACTS: facts.model_dump_json()})


def decode_update(data: Packed | bytes, client_id: str) -> ClientUpdate:
    """Return the update in ``encode_update``' bytes; its tensors are views of them.

    Args:
        data: What came.
        client_id: Who sent it; an update that names another client is refused.

    Raises:
        ClientFailedError: the bytes are no update of this client and format version.
    """
    try:
        header = read_header(data)
        facts = UpdateFacts.model_validate_json(header[METADATA][FACTS])
        delta = views(data, header)
    except NO_UPDATE as error:
        raise ClientFailedError(
            f"Client {client_id!r} sent {len(data)} bytes that are no update "
            f"({type(error).__name__}).",
            "An update is safetensors of float32 with its facts in the header.",
            "Use one release for client and server.",
        ) from None
    if (facts.client_id, facts.format_version) != (client_id, FORMAT_VERSION):
        raise ClientFailedError(
            f"Client {client_id!r} sent an update of {facts.client_id!r} in format version "
            f"{facts.format_version}.",
            f"Expected an update of its own in format version {FORMAT_VERSION}.",
            "Use one release for client and server, and one name for each client.",
        )
    return ClientUpdate(
        client_id=facts.client_id,
        round_index=facts.round_index,
        delta=delta,
        num_examples=facts.num_examples,
        metrics=facts.metrics,
        work=facts.work,
    )


def pack(tensors: Params, metadata: Mapping[str, str] | None = None) -> Packed:
    """Return float32 tensors as safetensors, in their own order."""
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name, value in tensors.items():
        start, end = end, end + value.numel() * VALUE_BYTES
        header[name] = {
            "dtype": FLOAT32,
            "shape": list(value.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    packed = np.empty(LENGTH_BYTES + len(text) + end, np.uint8)
    packed[:LENGTH_BYTES] = np.frombuffer(len(text).to_bytes(LENGTH_BYTES, "little"), np.uint8)
    packed[LENGTH_BYTES : LENGTH_BYTES + len(text)] = np.frombuffer(text, np.uint8)
    place = LENGTH_BYTES + len(text)
    for value in tensors.values():
        own = torch.from_numpy(packed[place : place + value.numel() * VALUE_BYTES])
        own.view(torch.float32).copy_(value.detach().reshape(-1))
        place += value.numel() * VALUE_BYTES
    return packed


def read_header(data: Packed | bytes) -> dict[str, Any]:
    """Return the JSON header.

    Raises:
        ValueError: there is none.
    """
    view = _whole(data)
    size = int.from_bytes(view[:LENGTH_BYTES], "little")
    if not 0 < size <= len(view) - LENGTH_BYTES:
        raise ValueError(f"the header would have {size} bytes")
    header: dict[str, Any] = json.loads(bytes(view[LENGTH_BYTES : LENGTH_BYTES + size]))
    return header


def views(data: Packed | bytes, header: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors that a header tells of, as views of the bytes.

    Raises:
        ValueError: a tensor is not float32, or lies outside the bytes.
    """
    view = _whole(data)
    body = view[LENGTH_BYTES + int.from_bytes(view[:LENGTH_BYTES], "little") :]
    tensors = {}
    for name, entry in header.items():
        if name == METADATA:
            continue
        start, end = entry["data_offsets"]
        shape = [int(size) for size in entry["shape"]]
        num_values = math.prod(shape)
        whole = min(shape, default=0) >= 0 and end - start == num_values * VALUE_BYTES
        if entry["dtype"] != FLOAT32 or not whole or not 0 <= start <= end <= len(body):
            raise ValueError(f"a tensor of dtype {entry['dtype']!r} at {start}:{end}")
        tensors[name] = _view(body[start:end], shape)
    return tensors


def _whole(data: Packed | bytes) -> memoryview:
    return memoryview(data).cast("B")  # type: ignore[arg-type]  # an array is a buffer, too


def _view(part: memoryview, shape: list[int]) -> Tensor:
    if not len(part):
        return torch.empty(shape)
    with warnings.catch_warnings():  # they may be read-only, and nobody writes to them
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(part, dtype=torch.float32).view(shape)
