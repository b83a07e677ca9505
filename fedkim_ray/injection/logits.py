"""The logits of a question's two answer words alone, in float32.

    w = W h + b + s B (g * (A h))

Shape letters: B examples, E embedding width, R stacked ranks.
"""

from typing import Any

from peft.tuners.lora import LoraLayer
from torch import Tensor

from fedkim_ray.injection.m3oe import ExpertGate


def word_logits(
    llm: Any, hidden_BE: Tensor, ids_B2: Tensor, gate: ExpertGate | None = None
) -> Tensor:
    """Return the float32 logits of each row's two answer words, (B, 2).

    The head itself would round its logits to the working precision. In bfloat16 one of 32 has
    neighbours at a distance of 1/4: many questions would tie, and many have even odds. Packing a
    base leaves the head's weights as they are, so their rows can be read.

    Args:
        llm: The language model, in evaluation mode; its head may be adapted.
        hidden_BE: What the head reads, one position a row.
        ids_B2: Token ids.
        gate: Holds the rows' expert weights, where the head's adapter is gated.
    """
    head, h_BE = llm.get_output_embeddings(), hidden_BE.float()
    is_adapted = isinstance(head, LoraLayer)
    frozen = head.base_layer if is_adapted else head
    pair_B2 = _word_rows(frozen.weight, ids_B2, h_BE)
    if frozen.bias is not None:
        pair_B2 = pair_B2 + frozen.bias[ids_B2].float()
    if is_adapted:
        A, B = (part["default"].weight for part in (head.lora_A, head.lora_B))
        z_BR = h_BE @ A.float().T
        gated_BR = z_BR if gate is None else z_BR * gate.of(h_BE)[:, 0]
        pair_B2 = pair_B2 + head.scaling["default"] * _word_rows(B, ids_B2, gated_BR)
    return pair_B2


def _word_rows(weight: Tensor, ids_B2: Tensor, x: Tensor) -> Tensor:
    """Return two rows of a matrix times each row of x, (B, 2), float32."""
    return (weight[ids_B2].float() @ x[:, :, None]).squeeze(-1)
