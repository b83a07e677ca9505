"""Compile M3OE for one (task, modalities) pair to an ordinary LoRA adapter.

Routing depends on text alone, so for one pair the expert weights alpha are constants, and they fold
into A's rows:

    s * sum_p alpha_p B_p A_p h = s' * B A' h     A'_p = K * alpha_p * A_p, s' = lora_alpha / (K*r)

with K = P, or K experts where only the largest are kept. PEFT, and any server that runs LoRA
adapters, loads the result without any code of ours.

adapter_config.json, adapter_model.safetensors      as PEFT reads them
manifest.json                                       task, modalities, experts and their weights
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedkim_ray.bundle.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from fedkim_ray.bundle.read import LoadedBundle, load_bundle
from fedkim_ray.data.modalities import MODALITIES
from fedkim_ray.errors import RecipeError, RequestError
from fedkim_ray.injection.router import keep_top_k
from fedkim_ray.storage import Folder, publish, require_replaceable
from fedkim_ray.types import Modality, Params, TaskId

KIND = "folded-adapter"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """An ordinary LoRA adapter, and where it came from."""

    weights: Params
    """By PEFT's names, float32."""
    config: Mapping[str, Any]
    """As ``adapter_config.json``."""
    alpha_P: Tensor
    """Weights of all experts, 0 where one was left out."""
    facts: Mapping[str, Any]
    """Bundle version, task, modalities and experts, for the manifest."""


def fold(
    url: str, task: TaskId, modalities: Sequence[Modality], top_k: int | None = None
) -> Folded:
    """Fold a bundle's expert weights of one (task, modalities) pair into its adapter.

    Args:
        url: The bundle, any fsspec URL.
        task: A task of the bundle.
        modalities: What the requests will carry, in any order.
        top_k: Keep this many of the largest experts, summing to 1 again; all where None.

    Raises:
        RequestError: the bundle has no such task, or a modality is unknown.
        RecipeError: the bundle has no routed experts to fold.
    """
    bundle = load_bundle(url, "float32", on_gpu=False)
    alpha_P = expert_weights(bundle, task, modalities, top_k)
    folder = Folder.at(url)
    weights, config = fold_weights(
        folder.read_tensors(ADAPTER_WEIGHTS), folder.read_json(ADAPTER_CONFIG), alpha_P
    )
    return Folded(
        weights=weights,
        config=config,
        alpha_P=alpha_P,
        facts={
            "bundle_version": bundle.facts.version,
            "base": bundle.facts.base.name,
            "base_fingerprint": bundle.facts.base_fingerprint,
            "task": task,
            "modalities": _in_order(modalities),
            "experts": alpha_P.nonzero().flatten().tolist(),
            "alpha": alpha_P.tolist(),
        },
    )


@torch.inference_mode()
def expert_weights(
    bundle: LoadedBundle, task: TaskId, modalities: Sequence[Modality], top_k: int | None = None
) -> Tensor:
    """Return one pair's expert weights, (P,) float32; see ``fold`` for arguments and errors."""
    if bundle.model.router is None:
        raise RecipeError(
            f"The bundle's variant {bundle.facts.variant!r} has no routed experts.",
            "Folding turns expert weights into an ordinary adapter.",
            "Use its adapter/ folder as it is, where it has one.",
        )
    known, unknown = [t.id for t in bundle.facts.tasks], set(modalities) - set(MODALITIES)
    if task not in known:
        raise RequestError(
            f"The bundle has no task {task!r}.",
            f"Its tasks are {', '.join(known)}.",
            "Name one of them.",
        )
    if unknown or not modalities:
        raise RequestError(
            f"The modalities are {sorted(modalities)}.",
            f"One or more of {', '.join(MODALITIES)}.",
            "Name those that the requests will carry.",
        )
    alpha_1P = bundle.model.route([(task, tuple(_in_order(modalities)))])
    return (alpha_1P if top_k is None else keep_top_k(alpha_1P, top_k))[0]


def write_folded(folder: Folder, folded: Folded) -> None:
    """Publish a folded adapter.

    Raises:
        StorageError: something else lies in the folder.
    """
    require_replaceable(folder, KIND)
    with publish(folder, KIND, FORMAT_VERSION, **folded.facts) as out:
        out.write_tensors("adapter_model.safetensors", folded.weights)
        out.write_json("adapter_config.json", dict(folded.config))


def _in_order(modalities: Sequence[Modality]) -> list[Modality]:
    return [m for m in MODALITIES if m in modalities]


def fold_weights(
    weights: Params, config: Mapping[str, Any], alpha_P: Tensor
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Cut out the experts whose weight is not 0 and scale A's rows by K * alpha_p.

    Args:
        weights: The bundle's adapter by PEFT's names, (P*r, d_in) and (d_out, P*r).
        config: Its ``adapter_config.json``.
        alpha_P: Weights of all experts.

    Returns:
        Weights and configuration of an ordinary adapter of rank K*r.
    """
    kept, rank = alpha_P.nonzero().flatten(), config["r"] // len(alpha_P)
    gate_R = (len(kept) * alpha_P[kept]).repeat_interleave(rank)
    ranks_R = (kept[:, None] * rank + torch.arange(rank)).flatten()
    folded = {
        name: gate_R[:, None] * w[ranks_R] if ".lora_A." in name else w[:, ranks_R]
        for name, w in weights.items()
    }
    return folded, {**config, "r": rank * len(kept), "inference_mode": True}
