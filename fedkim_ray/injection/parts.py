"""What a recipe's injection section builds around the frozen language model."""

from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from fedkim_ray.config import InjectionConfig, M3OEConfig
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.injection.aligner import Aligner
from fedkim_ray.injection.base_model import empty_base
from fedkim_ray.injection.m3oe import ExpertGate, add_experts, target_names
from fedkim_ray.injection.router import Router


def embedding_size(llm: PreTrainedModel) -> tuple[int, float]:
    """Return the input embeddings' width E, and the root mean square of their entries."""
    weight = llm.get_input_embeddings().weight
    return int(weight.shape[1]), float(weight.float().square().mean().sqrt())


def make_aligners(
    light: LightModel, injection: InjectionConfig, embed_dim: int, embed_scale: float
) -> nn.ModuleDict:
    """Return g_m of every encoder group; see ``Aligner`` for the sizes."""
    tokens = injection.tokens_per_modality
    return nn.ModuleDict(
        {
            group: Aligner(light.dim_of(group), embed_dim, embed_scale, tokens.get(group))
            for group in light.groups
        }
    )


def make_router(m3oe: M3OEConfig, embed_dim: int) -> Router:
    """Return the router of E-wide descriptions."""
    router = m3oe.router
    return Router(
        embed_dim,
        router.dim,
        router.hidden_dim,
        m3oe.num_experts,
        router.query_from,
        router.key_value_from,
        router.num_heads,
        router.top_k,
    )


def require_targets(base: Path, injection: InjectionConfig) -> None:
    """Hold the layers that a recipe adapts against a base model's, without loading a weight.

    Args:
        base: The base model's folder.
        injection: The recipe's section.

    Raises:
        BaseModelError: it is no causal language model.
        RecipeError: a target module matches nothing in this base model.
    """
    llm = empty_base(base)
    if injection.adapter != "none":
        target_names(llm, injection.m3oe.target_modules)


def adapt(llm: PreTrainedModel, injection: InjectionConfig, gate: ExpertGate | None) -> nn.Module:
    """Return the language model with the recipe's adapter; itself where there is none.

    Raises:
        RecipeError: a target module matches nothing in this base model.
    """
    adapted: nn.Module = llm
    if injection.adapter != "none":
        m3oe = injection.m3oe
        adapted = add_experts(
            llm,
            num_experts=m3oe.num_experts,
            rank=m3oe.rank,
            lora_alpha=m3oe.lora_alpha,
            dropout=m3oe.dropout,
            target_modules=m3oe.target_modules,
            gate=gate,
        )
    if injection.gradient_checkpointing:
        llm.gradient_checkpointing_enable({"use_reentrant": False})
    return adapted
