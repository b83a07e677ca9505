"""Tiny random language models of the families that M3OE is held against, in float64.

Llama has grouped attention and no bias, Qwen2 a bias on its projections, GPT-2 bias everywhere
and transposed weights. The last is of InternLM2's form: a fused ``wqkv``, an untied ``output``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    GenerationMixin,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

VOCABULARY = 32
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def llama(tied: bool = True) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tied))


def qwen2() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=False))


def gpt2() -> PreTrainedModel:
    quiet = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    ends = {"bos_token_id": 0, "eos_token_id": 1}
    shape = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4}
    return GPT2LMHeadModel(GPT2Config(**shape, **quiet, **ends))


class FusedConfig(PreTrainedConfig):
    """What the fused form needs to know of itself."""

    model_type = "fused-wqkv"


class FusedBlock(nn.Module):
    """InternLM2's block: per key-value head, its queries, its key and its value in one matrix."""

    def __init__(self, dim: int = 16, heads: int = 4, groups: int = 2, wide: int = 24) -> None:
        super().__init__()
        self.groups, self.each, self.head_dim = groups, heads // groups, dim // heads
        self.wqkv = nn.Linear(dim, (heads + 2 * groups) * self.head_dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)
        self.w1, self.w3 = nn.Linear(dim, wide, bias=False), nn.Linear(dim, wide, bias=False)
        self.w2 = nn.Linear(wide, dim, bias=False)
        self.attention_norm, self.ffn_norm = nn.RMSNorm(dim), nn.RMSNorm(dim)

    def forward(self, x_BLD: Tensor, allowed_BLL: Tensor) -> Tensor:
        """Attention and gated MLP, each added to its input."""
        fused = self.wqkv(self.attention_norm(x_BLD))
        fused = fused.unflatten(-1, (self.groups, self.each + 2, self.head_dim))
        q, k, v = (part.flatten(2, 3).transpose(1, 2) for part in fused.split([self.each, 1, 1], 3))
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed_BLL[:, None], enable_gqa=True
        )
        x_BLD = x_BLD + self.wo(mixed.transpose(1, 2).flatten(2))
        h = self.ffn_norm(x_BLD)
        return x_BLD + self.w2(F.silu(self.w1(h)) * self.w3(h))


class FusedDecoder(nn.Module):
    """Embeddings and blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(VOCABULARY, 16)
        self.layers = nn.ModuleList(FusedBlock() for _ in range(2))

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_ignored: Any,
    ) -> BaseModelOutputWithPast:
        """Causal attention over real tokens; a padded token sees itself."""
        x = self.tok_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        length = x.shape[1]
        allowed = torch.ones(length, length, dtype=torch.bool).tril().expand(len(x), -1, -1)
        if attention_mask is not None:
            itself = torch.eye(length, dtype=torch.bool)
            allowed = (allowed & attention_mask[:, None].bool()) | itself
        for layer in self.layers:
            x = layer(x, allowed)
        return BaseModelOutputWithPast(last_hidden_state=x)


class FusedForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal language model of InternLM2's form, its names included."""

    config_class = FusedConfig
    base_model_prefix = "model"

    def __init__(self, config: FusedConfig) -> None:
        super().__init__(config)
        self.model = FusedDecoder()
        self.output = nn.Linear(16, VOCABULARY, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """As transformers asks."""
        return self.model.tok_embeddings

    def get_output_embeddings(self) -> nn.Module:
        """As transformers asks."""
        return self.output

    def forward(self, input_ids: Tensor | None = None, **inputs: Any) -> CausalLMOutputWithPast:
        """Logits at every position."""
        hidden = self.model(input_ids, **inputs).last_hidden_state
        return CausalLMOutputWithPast(logits=self.output(hidden))


FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": llama,
    "qwen2": qwen2,
    "gpt2": gpt2,
    "fused": lambda: FusedForCausalLM(FusedConfig()),
}


def small_model(family: str, seed: int = 0) -> PreTrainedModel:
    """Return a seeded model in float64, frozen, in evaluation mode."""
    torch.manual_seed(seed)
    model = FAMILIES[family]()
    for parameter in model.parameters():  # the usual 0.02 would hide most of what attention does
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return model.double().eval().requires_grad_(False)
