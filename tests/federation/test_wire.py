"""Updates as bytes."""

import json
import math
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from fedkim_ray.errors import ClientFailedError
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.federation.wire import (
    decode_params,
    decode_update,
    encode_params,
    encode_update,
    read_header,
)

UPDATE = ClientUpdate(
    client_id="north",
    round_index=3,
    delta={"encoders.image.w": torch.arange(6.0).reshape(2, 3).T},
    num_examples={"encoders.image": 7},
    metrics={"train/loss": 0.1},
)


def test_an_update_comes_back_equal() -> None:
    copy = decode_update(encode_update(UPDATE), "north")
    assert torch.equal(copy.delta["encoders.image.w"], UPDATE.delta["encoders.image.w"])
    assert replace(copy, delta={}) == replace(UPDATE, delta={})


def test_the_bytes_are_plain_safetensors() -> None:
    assert safetensors.torch.load(bytes(encode_update(UPDATE))).keys() == UPDATE.delta.keys()


def test_parameters_come_back_as_views() -> None:
    params = {"encoders.image.w": torch.ones(2), "heads.a.b": torch.tensor(3.0)}
    data = encode_params(params)
    copy = decode_params(data)
    torch.testing.assert_close(copy, params)
    data[-1:] = 0  # the last byte of the last value: nothing was copied
    assert copy["heads.a.b"].item() != 3.0


def test_the_librarys_own_bytes_are_read() -> None:
    params = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.empty(0, 4), "c": torch.tensor(1.0)}
    torch.testing.assert_close(decode_params(safetensors.torch.save(params)), params)


def altered(**entry: object) -> bytes:
    """Change the one tensor's entry in the header of a good update."""
    data = encode_update(UPDATE)
    header = read_header(data)
    header["encoders.image.w"] |= entry
    body = bytes(data)[8 + int.from_bytes(bytes(data[:8]), "little") :]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def test_a_changed_header_alone_is_no_fault() -> None:
    assert decode_update(altered(), "north").delta.keys() == UPDATE.delta.keys()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no tensors",
        bytes(encode_update(UPDATE)[:-1]),
        bytes(encode_params(UPDATE.delta)),
        altered(dtype="F64"),
        altered(shape=[2, 4]),
        altered(shape=[-2, -3]),
        altered(shape=[math.inf]),
        altered(shape=[0, 1e20], data_offsets=[0, 0]),
        altered(data_offsets=[-24, 0]),
        altered(data_offsets=[8, 32]),
        altered(data_offsets=None),
        (1 << 60).to_bytes(8, "little") + b"{}",
    ],
)
def test_bytes_that_are_no_update_are_refused(data: bytes) -> None:
    with pytest.raises(ClientFailedError, match=f"'north' sent {len(data)} bytes"):
        decode_update(data, "north")


def test_an_update_in_another_clients_name_is_refused() -> None:
    with pytest.raises(ClientFailedError, match="'south' sent an update of 'north'"):
        decode_update(encode_update(UPDATE), "south")
