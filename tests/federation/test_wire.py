"""Updates as bytes."""

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
    assert safetensors.torch.load(encode_update(UPDATE)).keys() == UPDATE.delta.keys()


def test_parameters_come_back_in_memory_of_their_own() -> None:
    params = {"encoders.image.w": torch.ones(2)}
    copy = decode_params(encode_params(params))
    copy["encoders.image.w"].zero_()
    assert params["encoders.image.w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "data", [b"", b"no tensors", encode_update(UPDATE)[:-1], encode_params(UPDATE.delta)]
)
def test_bytes_that_are_no_update_are_refused(data: bytes) -> None:
    with pytest.raises(ClientFailedError, match=f"'north' sent {len(data)} bytes"):
        decode_update(data, "north")


def test_an_update_in_another_clients_name_is_refused() -> None:
    with pytest.raises(ClientFailedError, match="'south' sent an update of 'north'"):
        decode_update(encode_update(UPDATE), "south")
