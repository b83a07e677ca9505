"""Steps of one token a row give what the layers compute, in half precision on a CPU."""

import pytest
import torch
from peft.tuners.lora import LoraLayer

from fedkim_ray.bundle.read import load_bundle
from fedkim_ray.injection.m3oe import gated_forward
from fedkim_ray.injection.model import InjectedModel
from serve.fast_steps import speed_up_steps, step_forward

ROWS = 3


def adapted(model: InjectedModel) -> list[LoraLayer]:
    return [layer for layer in model.llm.modules() if isinstance(layer, LoraLayer)]


@pytest.fixture(scope="module")
def model(bundle_url: str) -> InjectedModel:
    """A bundle's model in bfloat16, sped up."""
    model = load_bundle(bundle_url, "bfloat16").model
    speed_up_steps(model)
    return model


@pytest.mark.parametrize("gathered", [False, True])
@torch.inference_mode()
def test_a_step_equals_the_layer_in_float32_but_for_one_rounding(
    model: InjectedModel, gathered: bool
) -> None:
    gate = model.gate
    assert gate is not None
    alpha_BP = torch.rand(ROWS, gate.num_experts).softmax(-1)
    for layer in adapted(model):
        assert layer.forward.func is step_forward
        A, B = (half["default"].weight.float() for half in (layer.lora_A, layer.lora_B))
        h = torch.randn(ROWS, A.shape[1], dtype=torch.bfloat16)
        gate_BR = (gate.num_experts * alpha_BP).repeat_interleave(gate.rank, -1)
        low_rank = layer.scaling["default"] * ((h.float() @ A.T) * gate_BR) @ B.T
        expected = layer.base_layer(h).float() + low_rank
        assert low_rank.abs().max() > 0.01 * expected.abs().max()
        with gate.hold(alpha_BP):
            if gathered:
                with gate.at_rows(torch.arange(ROWS)):
                    got = layer(h)
            else:
                got = layer(h[:, None])[:, 0]
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.float(), expected, rtol=2**-8, atol=1e-6)


@torch.inference_mode()
def test_prompts_run_through_the_layers_as_they_were(model: InjectedModel) -> None:
    gate = model.gate
    assert gate is not None
    with gate.hold(torch.rand(ROWS, gate.num_experts)):
        for layer in adapted(model):
            width = layer.lora_A["default"].weight.shape[1]
            h = torch.randn(ROWS, 5, width, dtype=torch.bfloat16)
            assert torch.equal(layer(h), gated_forward(layer, gate, h))


def test_float32_is_left_alone(bundle_url: str) -> None:
    model = load_bundle(bundle_url, "float32").model
    speed_up_steps(model)
    assert all(layer.forward.func is gated_forward for layer in adapted(model))
