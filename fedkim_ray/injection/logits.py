"""From the last hidden state to logits: the output head, and what a base does behind it.

    logits = cap * tanh(m * (W h + b) / cap)                       m and cap where a base has them

    w = m * (W h + b + s B (g * (A h))), of a question's two answer words alone, in float32

Shape letters: B examples, E embedding width, R stacked ranks, V vocabulary.
"""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from fedkim_ray.injection.m3oe import ExpertGate

DIVISORS = {"granite": "logits_scaling", "minicpm3": "logits_scaling"}
"""Families whose logits are divided, by what their model types begin with; their setting."""
FACTORS = {
    "cohere": "logit_scale",
    "falcon_h1": "lm_head_multiplier",
    "hyperclovax": "logits_scaling",
}
"""Families whose logits are multiplied."""
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""What a largest logit is called: by Gemma and nanochat, by RecurrentGemma, by xLSTM."""


def behind_head(llm: Any, logits: Tensor) -> Tensor:
    """Return a head's logits as the model's own forward pass would: scaled and capped.

    Args:
        llm: The language model; most leave their head's logits as they are.
        logits: What its head returned, of any words.
    """
    config = llm.config.get_text_config(decoder=True)
    for family, setting in DIVISORS.items():
        if config.model_type.startswith(family):
            logits = logits / getattr(config, setting)
    for family, setting in FACTORS.items():
        if config.model_type.startswith(family):
            logits = logits * getattr(config, setting)
    caps = (getattr(config, name, None) for name in CAPS)
    for cap in (cap for cap in caps if cap is not None):
        logits = cap * torch.tanh(logits / cap)
    return logits


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
    return behind_head(llm, pair_B2)


def _word_rows(weight: Tensor, ids_B2: Tensor, x: Tensor) -> Tensor:
    """Return two rows of a matrix times each row of x, (B, 2), float32."""
    return (weight[ids_B2].float() @ x[:, :, None]).squeeze(-1)
