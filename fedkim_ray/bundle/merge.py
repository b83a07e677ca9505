"""Merge a folded adapter into full base weights, for engines that run no LoRA.

The result is a plain transformers model folder that answers for one (task, modalities) pair.
"""

import tempfile
from typing import Any

import torch
from peft import PeftModel

from fedkim_ray.bundle.fold import Folded, write_folded
from fedkim_ray.bundle.layout import BundleFacts
from fedkim_ray.bundle.read import load_base_of
from fedkim_ray.injection.base_model import BaseModel, untie_head
from fedkim_ray.storage import Folder, publish, require_replaceable

KIND = "merged-model"
FORMAT_VERSION = 1


def write_merged(folder: Folder, folded: Folded, facts: BundleFacts, dtype: str) -> None:
    """Publish the base model with a folded adapter merged into its weights.

    A tied head that the adapter changes gets weights of its own first: merged into the shared
    ones, it would change the input embeddings too.

    Args:
        folder: Where to, any fsspec URL.
        folded: The adapter.
        facts: Of the bundle that the adapter was folded from.
        dtype: Precision to store; merging is done in float32.

    Raises:
        BaseModelError: the base model is absent or not the one the bundle was trained on.
        StorageError: something else lies in the folder.
    """
    require_replaceable(folder, KIND)
    base = load_base_of(facts, "float32", whole=True)
    merged = merge(base, folded).to(getattr(torch, dtype))
    with (
        publish(folder, KIND, FORMAT_VERSION, dtype=dtype, **folded.facts) as out,
        tempfile.TemporaryDirectory(prefix="fedkim-merge-") as scratch,
    ):
        place = out.path if out.is_local else scratch
        merged.save_pretrained(place)
        base.tokenizer.save_pretrained(place)
        if not out.is_local:
            out.fs.put(f"{scratch}/", f"{out.path}/", recursive=True)


def merge(base: BaseModel, folded: Folded) -> Any:
    """Return the base model, changed in place, with the adapter in its weights."""
    head = base.llm.get_output_embeddings()
    names = {name: module for name, module in base.llm.named_modules() if module is head}
    if any(f"base_model.model.{name}.lora_A.weight" in folded.weights for name in names):
        untie_head(base.llm)
    with tempfile.TemporaryDirectory(prefix="fedkim-fold-") as scratch:
        write_folded(Folder.at(scratch), folded)
        adapted = PeftModel.from_pretrained(base.llm, scratch)
    return adapted.merge_and_unload(safe_merge=True)
