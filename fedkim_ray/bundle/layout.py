"""What a bundle consists of: all that serving needs, and nothing that a run alone needs.

adapter/adapter_config.json, adapter/adapter_model.safetensors
M3OE as a stock PEFT LoRA of rank P*r (loaded without a gate: the
uniform mixture)
components.safetensors    router, aligners and encoders
bundle.json               ``BundleFacts``
scores.json               ``Scores``, once the run's report is made
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
SCORES = "scores.json"


class ClientLineage(Frozen):
    """What a bundle says of one client: never more than counts and a fingerprint."""

    client_id: str
    tasks: tuple[str, ...]
    num_examples: int
    data_fingerprint: str
    """SHA-256 over the hashes of the client's files."""


class RoutingFacts(Frozen):
    """How the examples of the last training step were routed."""

    entropy_nats: float
    """Mean entropy of their expert weights; ln(experts) where all share alike."""
    expert_load: tuple[float, ...]
    """Mean weight of each expert; they sum to 1."""


class ValidationFacts(Frozen):
    """What the clients' own heads make of the encoders on the clients' validation data."""

    num_examples: int
    auroc_before: float
    """Before the last injection; mean over clients, weighted by examples."""
    auroc_after: float


class Interval(Frozen):
    """A metric with its 95 % bootstrap interval; None where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "undefined"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class TaskScore(Frozen):
    """What a task's test questions gave."""

    task: str
    role: str
    """``train`` or ``unseen``."""
    data_kind: str
    num_questions: int
    metrics: dict[str, Interval]
    """By the name that readers know."""


class Scores(Frozen):
    """``scores.json``: the bundle on the test data of its own run."""

    format_version: Literal[1] = 1
    data_name: str
    reading: str
    """How yes/no answers were read: ``likelihood`` or ``generate``."""
    subset_note: str
    """Which of the test questions were asked."""
    tasks: tuple[TaskScore, ...]


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
    """The last loss of each task that was trained in some round."""
    routing: RoutingFacts | None = None
    """None without routed experts."""
    validation: dict[str, ValidationFacts] = Field(default_factory=dict)
    """By task; empty where no client scored the last round."""


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
