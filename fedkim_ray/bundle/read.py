"""Read a bundle back into a model that answers."""

from dataclasses import dataclass

import torch
from pydantic import ValidationError

from fedkim_ray.bundle.layout import (
    ADAPTER_WEIGHTS,
    COMPONENTS,
    FACTS,
    FORMAT_VERSION,
    KIND,
    BundleFacts,
    from_peft_name,
)
from fedkim_ray.errors import BaseModelError, StorageError
from fedkim_ray.injection.base_model import BaseModel, load_base, working_dtype
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.training import load_params
from fedkim_ray.storage import Folder, open_published


@dataclass(frozen=True, slots=True)
class LoadedBundle:
    """A bundle in memory."""

    facts: BundleFacts
    model: InjectedModel
    """In evaluation mode."""


def read_facts(folder: Folder) -> BundleFacts:
    """Verify a bundle and return its facts, without loading its weights.

    Raises:
        StorageError: it is no whole bundle of this format.
    """
    open_published(folder, KIND, FORMAT_VERSION)
    try:
        return BundleFacts.model_validate(folder.read_json(FACTS))
    except ValidationError as error:
        raise StorageError(
            f"{folder.full(FACTS)!r} does not parse ({error.error_count()} faults).",
            f"It is a bundle of format version {FORMAT_VERSION}.",
            "Use the release that wrote it.",
        ) from None


def load_bundle(url: str, dtype: str | None = None, on_gpu: bool | None = None) -> LoadedBundle:
    """Load a bundle with its base model, in the place and precision in which it will compute.

    Args:
        url: Where the bundle is, any fsspec URL.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto``; the recipe's where None.
        on_gpu: Whether on this process's GPU; on one where there is one, if None.

    Raises:
        StorageError: it is no whole bundle.
        BaseModelError: its base model is absent or not the one it was trained on.
    """
    folder = Folder.at(url)
    facts = read_facts(folder)
    on_gpu = torch.cuda.is_available() if on_gpu is None else on_gpu
    dtype = working_dtype(dtype or facts.base.dtype, on_gpu)
    base = load_base_of(facts, dtype, on_gpu=on_gpu)
    tasks = {task.id: task for task in facts.tasks}
    model = InjectedModel(base, facts.injection, facts.encoders, facts.spec, tasks)
    params = folder.read_tensors(COMPONENTS)
    if folder.exists(ADAPTER_WEIGHTS):
        weights = folder.read_tensors(ADAPTER_WEIGHTS)
        params |= {from_peft_name(name): value for name, value in weights.items()}
    load_params(model, params)
    if facts.base.quantization == "none":  # packed weights lie where they will stay
        model.to("cuda" if on_gpu else "cpu")
    model.to(getattr(torch, dtype)).requires_grad_(False)
    return LoadedBundle(facts, model.eval())


def load_base_of(
    facts: BundleFacts, dtype: str, *, whole: bool = False, on_gpu: bool = False
) -> BaseModel:
    """Load the base model that a bundle was trained on.

    Args:
        facts: Of the bundle.
        dtype: As for ``load_base``.
        whole: Leave it unpacked where the bundle was trained on a quantised one.
        on_gpu: As for ``load_base``.

    Raises:
        BaseModelError: it is absent, or another one is there under its name.
    """
    packed = "none" if whole else facts.base.quantization
    base = load_base(facts.base.name, dtype, facts.base.revision, packed, on_gpu)
    if base.fingerprint != facts.base_fingerprint:
        raise BaseModelError(
            f"Base model {facts.base.name!r} has SHA-256 {base.fingerprint}.",
            f"The bundle was trained on {facts.base_fingerprint}.",
            "Provide the base model of the same revision.",
        )
    return base
