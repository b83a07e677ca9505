"""What a bundle consists of: all that serving needs, and nothing that a run alone needs.

adapter/adapter_config.json, adapter/adapter_model.safetensors
M3OE as a stock PEFT LoRA of rank P*r (loaded without a gate: the
uniform mixture)
components.safetensors    router, aligners and encoders
bundle.json               ``BundleFacts``
README.md                 model card
manifest.json             written last
"""

from typing import Any, Literal

from pydantic import Field

from fedkim_ray.config import BaseModelConfig, EncodersConfig, InjectionConfig
from fedkim_ray.data.root import Source
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.types import Frozen, Task

KIND = "bundle"
FORMAT_VERSION = 1
ADAPTER_CONFIG = "adapter/adapter_config.json"
ADAPTER_WEIGHTS = "adapter/adapter_model.safetensors"
COMPONENTS = "components.safetensors"
FACTS = "bundle.json"
CARD = "README.md"


class ClientLineage(Frozen):
    """What a bundle says of one client: never more than counts and a fingerprint."""

    client_id: str
    tasks: tuple[str, ...]
    num_examples: int
    data_fingerprint: str
    """SHA-256 over the hashes of the client's files."""


class BundleFacts(Frozen):
    """``bundle.json``."""

    format_version: Literal[1] = 1
    name: str
    version: str
    """First twelve digits of the SHA-256 over the trained weights."""
    variant: str
    base: BaseModelConfig
    base_fingerprint: str
    injection: InjectionConfig
    encoders: EncodersConfig
    spec: DataSpec
    tasks: tuple[Task, ...]
    data_name: str
    data_kinds: dict[str, str]
    """For each task, whether its data are real or synthetic."""
    data_sources: tuple[Source, ...] = ()
    """Where the data come from, with their licences."""
    rounds: int
    steps: int
    seed: int
    clients: tuple[ClientLineage, ...]
    public_fingerprint: str
    training: dict[str, Any] = Field(default_factory=dict)
    """Last losses, by task."""


def to_peft_name(name: str) -> str | None:
    """Return PEFT's file name of a trained parameter; None where it is no adapter weight.

    ``llm.base_model.model.….lora_A.default.weight`` -> ``base_model.model.….lora_A.weight``
    """
    if not name.startswith("llm."):
        return None
    return name.removeprefix("llm.").replace(".default.", ".")


def from_peft_name(name: str) -> str:
    """Return the trained parameter's name of an adapter weight in a PEFT file."""
    stem, leaf = name.rsplit(".", 1)
    return f"llm.{stem}.default.{leaf}"
