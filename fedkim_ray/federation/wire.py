"""Updates and parameters as bytes: safetensors, with an update's facts as JSON in its header.

The bytes are what crosses to another process, so nothing is unpickled that a client wrote, the
number of bytes that left is known exactly, and any transport can carry them.
"""

import json

import safetensors.torch
from pydantic import ValidationError
from safetensors import SafetensorError

from fedkim_ray.errors import ClientFailedError
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.types import Frozen, Params

FORMAT_VERSION = 1
FACTS = "fedkim"
LENGTH_BYTES = 8
"""A safetensors file starts with the length of its JSON header, little-endian."""


class UpdateFacts(Frozen):
    """All of an update but its tensors."""

    format_version: int = FORMAT_VERSION
    client_id: str
    round_index: int
    num_examples: dict[str, int]
    metrics: dict[str, float]


def encode_params(params: Params) -> bytes:
    """Return parameters as safetensors."""
    return safetensors.torch.save({name: value.contiguous() for name, value in params.items()})


def decode_params(data: bytes) -> Params:
    """Return the parameters in ``encode_params``' bytes, in memory of their own."""
    return safetensors.torch.load(data)


def encode_update(update: ClientUpdate) -> bytes:
    """Return an update as safetensors with its facts in the header."""
    facts = UpdateFacts(
        client_id=update.client_id,
        round_index=update.round_index,
        num_examples=dict(update.num_examples),
        metrics=dict(update.metrics),
    )
    whole = {name: value.contiguous() for name, value in update.delta.items()}
    return safetensors.torch.save(whole, {FACTS: facts.model_dump_json()})


def decode_update(data: bytes, client_id: str) -> ClientUpdate:
    """Return the update in ``encode_update``' bytes.

    Args:
        data: What came.
        client_id: Who sent it; an update that names another client is refused.

    Raises:
        ClientFailedError: the bytes are no update of this client and format version.
    """
    try:
        delta = safetensors.torch.load(data)
        facts = UpdateFacts.model_validate_json(_header(data)["__metadata__"][FACTS])
    except (SafetensorError, ValidationError, KeyError, ValueError) as error:
        raise ClientFailedError(
            f"Client {client_id!r} sent {len(data)} bytes that are no update "
            f"({type(error).__name__}).",
            "An update is safetensors with its facts in the header.",
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
    )


def _header(data: bytes) -> dict[str, dict[str, str]]:
    size = int.from_bytes(data[:LENGTH_BYTES], "little")
    header: dict[str, dict[str, str]] = json.loads(data[LENGTH_BYTES : LENGTH_BYTES + size])
    return header
