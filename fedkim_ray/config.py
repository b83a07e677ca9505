"""The recipe: one frozen, validated description of a whole run.

A recipe is YAML (``recipe_files``). The resolved recipe is written into the run folder. Library
code below takes flat values, not the recipe.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from fedkim_ray.types import Frozen, LabelSelector, Modality, Task

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
HalfOpen = Annotated[float, Field(ge=0.0, lt=1.0)]
GroupName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""A part of parameters' names, which dots divide."""
MAX_SEED = 2**32 - 1
"""Injection multiplies the seed by a million and more; torch's generators take 64 bits."""


class DataConfig(Frozen):
    """Where the data lie, and which of them take part."""

    root: str
    """fsspec URL of a data root (see docs/data.md)."""
    clients: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Clients that take part; all that the data root lists where null."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Trained tasks that take part; all with role ``train`` where null."""


class BaseModelConfig(Frozen):
    """The frozen language model that knowledge is injected into."""

    name: str
    """``tiny-random``, ``smollm2-135m``, a local folder, or a Hugging Face hub id."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Working precision; masters are float32. ``auto`` takes bfloat16 where the machine computes it
    in hardware (a GPU, AVX512-BF16, AMX), and float32 elsewhere, where bfloat16 is far slower.
    float16 is for GPUs without bfloat16: its losses are scaled, and steps that overflow skipped."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Bits of the frozen linear layers (bitsandbytes' LLM.int8 or NF4); adapters keep ``dtype``."""
    revision: str | None = None
    """Commit or tag on the hub; null takes the newest."""


class AttentionConfig(Frozen):
    """What all parts with attention share."""

    dim: PositiveInt
    """Width over all heads."""
    num_heads: PositiveInt
    """Attention heads; each has dim / num_heads of the width."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} does not divide into num_heads {self.num_heads}")
        return self


class ImageEncoderConfig(AttentionConfig):
    """A small vision transformer of the DeiT family with a convolutional stem."""

    dim: PositiveInt = 192
    depth: PositiveInt = 12
    num_heads: PositiveInt = 3
    patch_px: PositiveInt = 16
    """Side of the square that one token sees; a power of two, one stem convolution each."""


class SignalEncoderConfig(Frozen):
    """A 1-D convolutional network over leads x samples."""

    dim: PositiveInt = 128
    channels: Annotated[PositiveInt, Field(multiple_of=8)] = 64
    """Width of the convolutions; they are normalised in 8 groups of channels."""
    num_tokens: PositiveInt = 12


class SeriesEncoderConfig(AttentionConfig):
    """A linear layer per hour and a masked transformer over hours."""

    dim: PositiveInt = 512
    depth: PositiveInt = 1
    num_heads: PositiveInt = 8


class EncodersConfig(Frozen):
    """Encoders of the clients' light model; a head per task is added to them."""

    image: ImageEncoderConfig = ImageEncoderConfig()
    signal: SignalEncoderConfig = SignalEncoderConfig()
    series: SeriesEncoderConfig = SeriesEncoderConfig()
    groups: dict[GroupName, tuple[Modality, ...]] = Field(default_factory=dict)
    """Time-series modalities that share one encoder, by a name of your choice; each modality that
    no group names has an encoder of its own, of its name."""
    dropout: Fraction = 0.1


class FedAvgConfig(Frozen):
    """Weighted mean of the clients' parameters (McMahan et al. 2017)."""

    name: Literal["fedavg"] = "fedavg"


class FedProxConfig(Frozen):
    """FedAvg whose clients are held near the global parameters (Li et al. 2020)."""

    name: Literal["fedprox"] = "fedprox"
    mu: NonNegativeFloat = 1e-6
    """Weight of (mu / 2) * ||theta - theta_global||^2 in every client's loss."""


class FedAvgMConfig(Frozen):
    """FedAvg whose server keeps momentum (Hsu et al. 2019)."""

    name: Literal["fedavgm"]
    eta: PositiveFloat = 1.0
    """Server learning rate."""
    beta: HalfOpen = 0.9
    """Momentum; 0 gives FedAvg."""


class AdaptiveConfig(Frozen):
    """What FedAdam and FedYogi share (Reddi et al. 2021)."""

    eta: PositiveFloat = 1e-2
    """Server learning rate: roughly the most that a parameter moves in a round."""
    beta1: HalfOpen = 0.9
    beta2: HalfOpen = 0.99
    tau: PositiveFloat = 1e-3
    """Adaptivity: the smaller, the more every parameter moves alike."""


class FedAdamConfig(AdaptiveConfig):
    """Adam on the server."""

    name: Literal["fedadam"]


class FedYogiConfig(AdaptiveConfig):
    """Yogi on the server."""

    name: Literal["fedyogi"]


class MedianConfig(Frozen):
    """Coordinate-wise median (Yin et al. 2018); clients count alike."""

    name: Literal["median"]


class TrimmedMeanConfig(Frozen):
    """Coordinate-wise trimmed mean (Yin et al. 2018); clients count alike."""

    name: Literal["trimmed_mean"]
    beta: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.2
    """Share of the clients cut off at each end."""


class KrumConfig(Frozen):
    """The client nearest to its neighbours (Blanchard et al. 2017); clients count alike."""

    name: Literal["krum"]
    num_faulty: NonNegativeInt = 1
    """f; every trained group needs 2f + 3 clients."""


StrategyConfig = Annotated[
    FedAvgConfig
    | FedProxConfig
    | FedAvgMConfig
    | FedAdamConfig
    | FedYogiConfig
    | MedianConfig
    | TrimmedMeanConfig
    | KrumConfig,
    Field(discriminator="name"),
]


class LocalTrainingConfig(Frozen):
    """How a client trains in one round; it keeps no state between rounds."""

    epochs: PositiveInt = 1
    batch_size: PositiveInt = 64
    lr: PositiveFloat = 1e-4
    """Learning rate of a fresh Adam each round."""
    weight_decay: NonNegativeFloat = 0.0
    checkpoint_every: PositiveInt | None = None
    """Batches between two copies of the half-trained round on the client's own disk, from which a
    worker that was killed goes on; None: it repeats the round. For rounds of many minutes."""


class FederationConfig(Frozen):
    """Rounds, clients and their resources."""

    rounds: PositiveInt = 10
    strategy: StrategyConfig = FedAvgConfig()
    local: LocalTrainingConfig = LocalTrainingConfig()
    clients_train: bool = True
    """False leaves the clients out: encoders then learn from the public data alone."""
    execution: Literal["resident", "pooled", "local"] = "resident"
    """``resident``: one long-lived Ray Train run a client. ``pooled``: ``num_slots`` actors that
    take the next sampled client from a queue. ``local``: a plain loop, no Ray."""
    num_slots: PositiveInt = 2
    """Clients that train at the same time in pooled execution."""
    weighting: Literal["examples", "equal"] = "examples"
    """What a client counts in a mean: as many times as it has examples, or once."""
    clients_per_round: PositiveInt | None = None
    """Clients drawn for each round; null draws by ``client_fraction``."""
    client_fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of all clients drawn for each round, rounded up; all take part where null."""
    min_clients: PositiveInt = 1
    """A round with fewer usable updates is retried once, then fails."""
    min_clients_per_modality: PositiveInt = 1
    """An encoder that fewer clients trained in a round keeps its values; the report names it."""
    client_timeout_s: PositiveFloat = 600.0
    """Seconds that a client gets for its round, from when it is asked."""
    round_deadline_s: PositiveFloat | None = None
    """Seconds for a whole round with its retry; then it goes on with a quorum, or fails."""
    max_update_norm: PositiveFloat | None = None
    """An update of a larger Euclidean norm is refused."""
    evaluate: bool = True
    """Clients score encoders and heads on their validation data before and after injection."""
    join_timeout_s: PositiveFloat = 180.0
    """Seconds to wait for clients: for all when the run starts; after that, and once a run that is
    resumed has waited so long, a quorum goes on without the rest."""
    workers_per_client: PositiveInt = 1
    """Workers that are one client together; each batch is split over them."""
    cpus_per_client: PositiveFloat = 1.0
    """CPUs that each of a client's workers reserves."""
    threads_per_client: PositiveInt = 1
    """torch threads inside a client; 1 gives the same numbers everywhere."""
    client_resources: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Custom Ray resources that pin a client to its own node: {client: {resource: amount}}."""
    client_selector: dict[str, LabelSelector] = Field(default_factory=dict)
    """Ray node labels that pin a client to its own node: {client: {label: value}}."""

    @property
    def uses_ray_train(self) -> bool:
        """Whether members are Ray Train runs: a client with a home, or a slot of many workers."""
        return self.execution == "resident" or (
            self.execution == "pooled" and self.workers_per_client > 1
        )

    def pins(self, client: str) -> dict[str, float | str]:
        """Return the resources and labels that say where a client runs; none where anywhere."""
        return {**self.client_resources.get(client, {}), **self.client_selector.get(client, {})}

    @model_validator(mode="after")
    def _samples_one_way(self) -> "FederationConfig":
        if self.clients_per_round is not None and self.client_fraction is not None:
            raise ValueError("clients_per_round and client_fraction exclude one another")
        return self

    @model_validator(mode="after")
    def _slots_take_any_client(self) -> "FederationConfig":
        if self.execution == "pooled" and (self.client_resources or self.client_selector):
            raise ValueError(
                "client_resources and client_selector pin resident clients; a pooled slot takes "
                "any client"
            )
        return self


class RouterConfig(AttentionConfig):
    """Expert weights alpha_t from the descriptions of task and modalities."""

    dim: PositiveInt = 64
    """Width of Q, K and V over all heads."""
    num_heads: PositiveInt = 1
    """Attention heads; d_k = dim / num_heads."""
    top_k: PositiveInt | None = None
    """Experts that keep their weight in a (task, modalities) pair, two or more; all where null."""
    hidden_dim: PositiveInt = 64
    """Width of the MLP between beta_t and alpha_t."""
    query_from: Literal["modality", "task"] = "modality"
    """``task`` is the ablation without modality descriptions."""
    key_value_from: Literal["task", "modality"] = "task"
    """``modality`` is the ablation without task descriptions."""

    @model_validator(mode="after")
    def _top_k_learns(self) -> "RouterConfig":
        if self.top_k == 1:
            raise ValueError(
                "top_k 1 trains no router: weights that are kept sum to 1, so one alone is 1 "
                "whatever the router says, and its gradient 0; keep 2 or more"
            )
        return self


class M3OEConfig(Frozen):
    """The mixture of LoRA experts."""

    num_experts: PositiveInt = 12
    """P."""
    rank: PositiveInt = 8
    """r, the rank of one expert."""
    lora_alpha: PositiveFloat = 32.0
    dropout: Fraction = 0.1
    target_modules: (
        Annotated[tuple[str, ...], Field(min_length=1)] | Literal["attention_mlp", "all"]
    ) = "attention_mlp"
    """Names of linear layers; ``attention_mlp`` is every projection of every block, ``all`` adds
    the output head."""
    router: RouterConfig = RouterConfig()

    @model_validator(mode="after")
    def _top_k_fits(self) -> "M3OEConfig":
        if (self.router.top_k or 0) > self.num_experts:
            raise ValueError(
                f"router.top_k {self.router.top_k} exceeds num_experts {self.num_experts}"
            )
        return self


class InjectionConfig(Frozen):
    """Training of M3OE, aligners and encoders on public data."""

    adapter: Literal["m3oe", "lora", "none"] = "m3oe"
    """``lora``: one LoRA of rank P*r without routing. ``none``: encoders and aligners only."""
    m3oe: M3OEConfig = M3OEConfig()
    tokens_per_modality: dict[str, PositiveInt] = Field(default_factory=dict)
    """Pool the tokens of an encoder group, or of a modality in no group, to this many; all enter
    where absent."""
    steps_per_round: PositiveInt = 100
    checkpoint_steps: PositiveInt = 50
    """Steps after which an unfinished round is saved; a killed round goes on from there."""
    batch_size: PositiveInt = 16
    """Examples in one optimizer step, over all workers."""
    gradient_accumulation: PositiveInt = 1
    """Parts that a worker splits its share of a batch into."""
    lr: PositiveFloat = 5e-4
    encoder_lr: NonNegativeFloat = 1e-4
    """Learning rate of the encoders; 0 freezes them during injection."""
    betas: tuple[HalfOpen, HalfOpen] = (0.9, 0.95)
    weight_decay: NonNegativeFloat = 0.0
    warmup_fraction: Fraction = 0.1
    """Share of all steps of the run over which the rate rises; it then falls linearly to 0."""
    gradient_clip: PositiveFloat = 1.0
    task_weights: dict[str, PositiveFloat] = Field(default_factory=dict)
    """How often a task is drawn into a batch; 1 where absent."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """What waits in the host's memory between uses: nothing, masters and moments (stages 1 to 3),
    or all weights too (stage 3)."""
    num_workers: PositiveInt = 1
    workers: Literal["each_round", "whole_run"] = "each_round"
    """``each_round`` starts them for their turn, so that their GPUs are free, and an autoscaler may
    take the nodes away, while clients train. ``whole_run`` keeps their processes with all that they
    loaded: base model, engine and public data serve every round, to the same numbers."""
    use_gpu: bool = False
    cpus_per_worker: PositiveFloat = 1.0
    worker_selector: LabelSelector = Field(default_factory=dict)
    """Ray node labels of nodes that workers may run on, such as {role: injection}; any where empty.
    It keeps them off the sites' nodes, which lack the run folder and may be lost."""
    threads_per_worker: PositiveInt = 2
    gradient_checkpointing: bool = False
    max_failures: NonNegativeInt = 1
    """Times that a round's injection is started again after a lost worker."""

    @model_validator(mode="after")
    def _stage_can_offload(self) -> "InjectionConfig":
        needed = {"none": 0, "optimizer": 1, "parameters": 3}[self.offload]
        if self.zero_stage < needed:
            raise ValueError(
                f"offload {self.offload!r} needs zero_stage {needed} or more, not {self.zero_stage}"
            )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> "InjectionConfig":
        parts = self.num_workers * self.gradient_accumulation
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide into num_workers * "
                f"gradient_accumulation = {parts} equal parts"
            )
        return self


class EvaluationConfig(Frozen):
    """How the finished bundle is scored."""

    batch_size: PositiveInt = 32
    max_questions: PositiveInt | None = None
    """Score a fixed, evenly drawn subset of at most this many test questions; all where null."""
    bootstrap_samples: PositiveInt = 1000
    max_new_tokens: PositiveInt = 16


class Recipe(Frozen):
    """A whole run."""

    format_version: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    variant: str = "fedkim"
    """Which of the paper's variants this is; set by ``--variant``, kept for the reports."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    data: DataConfig
    base: BaseModelConfig
    encoders: EncodersConfig = EncodersConfig()
    federation: FederationConfig = FederationConfig()
    injection: InjectionConfig = InjectionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tasks: tuple[Task, ...] = ()
    """Tasks of your own, beside the twelve built-in ones."""

    @model_validator(mode="after")
    def _float16_is_scaled(self) -> "Recipe":
        if self.base.dtype == "float16" and self.injection.zero_stage == 0:
            raise ValueError(
                "base.dtype float16 needs injection.zero_stage 1 or more: DeepSpeed 0.19 divides "
                "stage 0's gradients by a loss scale that it never multiplied with"
            )
        return self

    @model_validator(mode="after")
    def _quantised_base_stays_whole(self) -> "Recipe":
        if self.base.quantization != "none" and self.injection.zero_stage == 3:
            raise ValueError(
                f"base.quantization {self.base.quantization!r} needs injection.zero_stage 2 or "
                "less: stage 3 would cut packed weights apart"
            )
        return self


VARIANTS: Mapping[str, tuple[str, ...]] = {
    "fedkim": (),
    "fedkim_fedprox": ("federation.strategy={name: fedprox, mu: 1.0e-6}",),
    "fedplug": ("injection.adapter=none",),
    "fedplug_l": ("injection.adapter=lora",),
    "public_only": ("federation.clients_train=false",),
    "no_task": ("injection.m3oe.router.key_value_from=modality",),
    "no_modality": ("injection.m3oe.router.query_from=task",),
}
"""The paper's variants as overrides of one recipe. ``base`` trains nothing: evaluate it alone."""
