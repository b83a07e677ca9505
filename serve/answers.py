"""What answers look like."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

NOTICE = "Not a medical device: for research. No answer may guide the care of a patient."
Notice = Annotated[str, Field(description="What answers are not for.")]
Kind = Field(description="OpenAI's name of this kind of object.")
Model = Annotated[str, Field(description="The bundle's name, as in /v1/models.")]
Version = Annotated[str, Field(description="First digits of the SHA-256 of the trained weights.")]
Alpha = Annotated[
    list[float] | None,
    Field(description="alpha, each expert's share, summing to 1; null without experts."),
]


class FedkimFacts(BaseModel):
    """What this service says beyond OpenAI's schema."""

    task: str = Field(description="The task that was asked; it routed the experts.")
    task_inferred: bool = Field(
        description="True where the request named no task and the server chose one from the "
        "modalities and the question."
    )
    modalities: list[str] = Field(description="What the model read, text among them.")
    expert_weights: Alpha
    label_probabilities: dict[str, float] | None = Field(
        description="Probability of each answer word of a yes/no task, compared with each other; "
        "null for generated answers."
    )
    bundle_version: Version
    notice: Notice = NOTICE


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int = Field(description="Positions that the model read, modality tokens too.")
    completion_tokens: int = Field(description="Tokens of the answer; 1 for yes/no.")
    total_tokens: int = Field(description="The sum of both.")


class AnswerMessage(BaseModel):
    """The model's message."""

    role: Literal["assistant"] = Field("assistant", description="Always `assistant`.")
    content: str = Field(description="The answer.")
    refusal: None = Field(None, description="OpenAI's field; always null.")


class ChatChoice(BaseModel):
    """The one answer."""

    index: int = Field(0, description="Always 0.")
    message: AnswerMessage = Field(description="What the model said.")
    finish_reason: Literal["stop", "length"] = Field(
        description="`length` where the limit of tokens cut the answer off."
    )
    logprobs: None = Field(None, description="OpenAI's field; always null.")


class ChatCompletion(BaseModel):
    """OpenAI's chat completion, with ``fedkim``."""

    id: str = Field(description="An id of this answer; no other has it.")
    object: Annotated[Literal["chat.completion"], Kind] = "chat.completion"
    created: int = Field(description="Unix time in seconds.")
    model: Model
    choices: list[ChatChoice] = Field(description="The one answer.")
    usage: Usage = Field(description="Tokens that were read and written.")
    fedkim: FedkimFacts = Field(description="Task, experts, probabilities and version.")


class Delta(BaseModel):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """The one answer, a piece of it."""

    index: int = 0
    delta: Delta
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: None = None


class ChatChunk(BaseModel):
    """OpenAI's chunk of a streamed chat completion; the last with words has ``fedkim``."""

    id: str
    object: Annotated[Literal["chat.completion.chunk"], Kind] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    fedkim: FedkimFacts | None = None
    bundle_version: str = Field(exclude=True, description="Of the replica that answers; not sent.")


class Prediction(BaseModel):
    """One patient's answer."""

    index: int = Field(description="Place of the patient in the request's `inputs`, from 0.")
    answer: str = Field(description="An answer word of a yes/no task, or generated words.")
    label_probabilities: dict[str, float] | None = Field(
        description="As in a chat's `fedkim`; null for generated answers."
    )
    completion_tokens: int = Field(description="Tokens of the answer; 1 for yes/no.")
    expert_weights: Alpha
    modalities: list[str] = Field(description="What the model read, text among them.")
    bundle_version: str = Field(
        description="Of the replica that answered; while a new bundle rolls in, patients of one "
        "request may meet both."
    )


class Predictions(BaseModel):
    """Answers in the order of the request's ``inputs``."""

    object: Annotated[Literal["list"], Kind] = "list"
    task: str = Field(description="The task that was asked.")
    model: Model
    bundle_version: str = Field(description="Of the first patient's answer.")
    data_kind: str = Field(description="Whether the task was trained on real or synthetic data.")
    notice: Notice = NOTICE
    data: list[Prediction] = Field(description="One answer a patient.")


class ModelFacts(BaseModel):
    """OpenAI's model, with where it comes from."""

    id: Model
    object: Annotated[Literal["model"], Kind] = "model"
    created: int = Field(description="Unix time in seconds at which this service started.")
    owned_by: str = Field("fedkim-ray", description="OpenAI's field.")
    bundle_version: Version
    variant: str = Field(description="The variant of the paper that the bundle was trained as.")
    base_model: str = Field(description="The frozen language model.")
    notice: Notice = NOTICE


class ModelList(BaseModel):
    """OpenAI's list of models: the one bundle that is served."""

    object: Annotated[Literal["list"], Kind] = "list"
    data: list[ModelFacts] = Field(description="The one bundle that is served.")


class FeatureFacts(BaseModel):
    """One feature of a time series."""

    name: str = Field(description="Its name in `series` of a request.")
    unit: str = Field(description="Unit of its values; `1` for none.")
    low: float = Field(description="Smaller values are refused, in `unit`.")
    high: float = Field(description="Larger values are refused, in `unit`.")


class InputFacts(BaseModel):
    """What one modality's input looks like."""

    image_size_px: int | None = Field(None, description="Side that images are scaled to.")
    leads: list[str] | None = Field(None, description="Leads that the model reads, in order.")
    sampling_rate_hz: float | None = Field(
        None, description="Samples a second that recordings are brought to."
    )
    num_samples: int | None = Field(None, description="Samples a lead that the model reads.")
    unit: str | None = Field(None, description="Unit of a recording as the model reads it.")
    hours: int | None = Field(None, description="Hours of a time series that the model reads.")
    features: list[FeatureFacts] | None = Field(None, description="Features of a time series.")


class TaskFacts(BaseModel):
    """One task of the bundle."""

    id: str = Field(description="Its name in requests.")
    role: str = Field(description="`train`, or `unseen`: asked by its description alone.")
    kind: str = Field(description="`yes_no` or `generate`.")
    modalities: list[str] = Field(description="What its inputs may hold.")
    question: str = Field(description="What is asked where a request has no question.")
    description: str = Field(description="The text that routes the experts.")
    answer_words: list[str] | None = Field(
        description="Of a yes/no task, no first; null where answers are generated."
    )
    data_kind: str = Field(description="`real`, `synthetic` or both.")
    inputs: dict[str, InputFacts] = Field(description="What each modality's input looks like.")


class TaskList(BaseModel):
    """All tasks of the bundle."""

    object: Annotated[Literal["list"], Kind] = "list"
    bundle_version: Version
    notice: Notice = NOTICE
    data: list[TaskFacts] = Field(description="Tasks of training and unseen ones.")


class Experts(BaseModel):
    """Expert weights of every task with all of its modalities present."""

    num_experts: int = Field(description="How many experts the bundle has; 0 without.")
    bundle_version: Version
    tasks: dict[str, Alpha] = Field(description="Expert weights by task id.")
