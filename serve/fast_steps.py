"""The experts' products in steps of one token a row, for half precision on a CPU.

Such a step multiplies each adapted layer's few rows with two thin matrices, A and B. In half
precision the library starts each product at a fixed price, which is several times the arithmetic's;
in float32 small products have no such price. So float32 copies of A and B lie beside the model for
these steps. Prompts, which are many rows, run through the layers as they were trained.
"""

import weakref
from functools import partial

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from fedkim_ray.injection.m3oe import ExpertGate, gated_forward
from fedkim_ray.injection.model import InjectedModel

HALVES = (torch.bfloat16, torch.float16)


def speed_up_steps(model: InjectedModel) -> None:
    """Let the model's adapted layers compute so, where it is in half precision and on a CPU."""
    if model.gate is None:
        return
    for layer in model.llm.modules():
        if isinstance(layer, LoraLayer) and _gains(layer):
            A_dR, B_Rd = (
                half["default"].weight.detach().float().T.contiguous()
                for half in (layer.lora_A, layer.lora_B)
            )
            # Weakly, as in ``attach_gate``: a layer that held itself would outlive its model.
            proxy = weakref.proxy(layer)
            layer.forward = partial(step_forward, proxy, model.gate, A_dR, B_Rd)


def step_forward(
    layer: LoraLayer, gate: ExpertGate, A_dR: Tensor, B_Rd: Tensor, h: Tensor
) -> Tensor:
    """Run one adapted layer: c = W_F h + s * B (gate * (A h)); see ``gated_forward``.

    Args:
        layer: PEFT's layer.
        gate: Holds the batch's expert weights.
        A_dR: Its A, transposed, float32.
        B_Rd: Its B, transposed, float32.
        h: (B, L, d_in), or (N, d_in) at gathered rows.
    """
    if h.dim() == 3 and h.shape[1] > 1:
        return gated_forward(layer, gate, h)
    c: Tensor = layer.base_layer(h)
    scaled = layer.scaling["default"] * gate.of(h)
    return c.add_((h.float() @ A_dR * scaled) @ B_Rd)


def _gains(layer: LoraLayer) -> bool:
    """Whether the layer is in half precision on a CPU, and its W_F h a fresh matrix to add to."""
    weight = layer.lora_A["default"].weight
    plain = type(layer.base_layer).__name__ in ("Linear", "Conv1D")
    return plain and weight.device.type == "cpu" and weight.dtype in HALVES
