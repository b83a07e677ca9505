"""Encoders and aligners on their own: one patient's arrays to tokens in the base model's space.

They need a hundredth of the memory of the language model, so they run in processes of their own
and scale apart from it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from fedkim_ray.bundle.layout import COMPONENTS, BundleFacts
from fedkim_ray.bundle.read import read_facts
from fedkim_ray.data.loading import Batch, Example, collate
from fedkim_ray.encoders.bundle import Encoded, LightModel
from fedkim_ray.injection.aligner import Aligner
from fedkim_ray.injection.base_model import working_dtype
from fedkim_ray.injection.model import in_dtype
from fedkim_ray.storage import Folder
from serve.engine import Feature, Features


class FeatureEncoder:
    """ENC_m and g_m of a bundle."""

    def __init__(self, facts: BundleFacts, light: LightModel, aligners: nn.ModuleDict) -> None:
        self.facts = facts
        self.light = light
        self.aligners = aligners

    @classmethod
    def from_bundle(cls, url: str, dtype: str | None = None) -> "FeatureEncoder":
        """Load the encoders of a bundle, and nothing of its language model.

        Args:
            url: Where the bundle is, any fsspec URL.
            dtype: As in ``load_bundle``.

        Raises:
            StorageError: it is no whole bundle.
        """
        folder = Folder.at(url)
        facts = read_facts(folder)
        params = folder.read_tensors(COMPONENTS)
        light = LightModel(facts.encoders, facts.spec, tasks=())
        light.load_state_dict(_under("light.", params))
        aligners = nn.ModuleDict()
        for group in light.groups:
            own = _under(f"aligners.{group}.", params)
            embed_dim, dim = own["project.weight"].shape
            tokens = facts.injection.tokens_per_modality.get(group)
            aligners[group] = Aligner(dim, embed_dim, 1.0, tokens)
            aligners[group].load_state_dict(own)
        on_gpu = torch.cuda.is_available()
        wanted = getattr(torch, working_dtype(dtype or facts.base.dtype, on_gpu=on_gpu))
        device = "cuda" if on_gpu else "cpu"
        light.to(device, wanted).eval()
        aligners.to(device, wanted).eval()
        return cls(facts, light, aligners)

    @torch.inference_mode()
    def encode(self, examples: Sequence[Example]) -> list[Features]:
        """Return each example's tokens by modality group, on the CPU, each in memory of its own."""
        batch = collate(examples, self.facts.spec)
        dtype = next(self.light.parameters()).dtype
        by_row: list[dict[str, Feature]] = [{} for _ in examples]
        for group, encoded in self.light.encode(in_dtype(batch, dtype)).items():
            aligner = cast(Aligner, self.aligners[group])
            tokens, carries = aligner(encoded.tokens, encoded.carries)
            rows = zip(encoded.rows.tolist(), tokens.cpu(), carries.cpu(), strict=True)
            for row, own, seen in rows:
                by_row[row][group] = Feature(tokens_KE=own.clone(), carries_K=seen.clone())
        version = self.facts.version
        return [Features(bundle_version=version, by_group=own) for own in by_row]


def side_by_side(
    features: Sequence[Features], groups: Sequence[str], device: torch.device
) -> dict[str, Encoded]:
    """Return the rows of a batch as ``InjectedModel.prompt`` takes them.

    Args:
        features: The rows of the batch.
        groups: All groups in the model's fixed order, which is the order in the prompt.
        device: Where the model runs.
    """
    aligned = {}
    for group in groups:
        own = {i: f.by_group[group] for i, f in enumerate(features) if group in f.by_group}
        if own:
            tokens = torch.stack([feature.tokens_KE for feature in own.values()])
            carries = torch.stack([feature.carries_K for feature in own.values()])
            index = torch.tensor(list(own), device=device)
            aligned[group] = Encoded(index, tokens.to(device), carries.to(device))
    return aligned


def plain_batch(examples: Sequence[Example]) -> Batch:
    """Return examples side by side whose modalities were encoded elsewhere."""
    return Batch(examples=tuple(examples), inputs={})


def _under(prefix: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {n.removeprefix(prefix): p for n, p in params.items() if n.startswith(prefix)}
