"""What answers look like."""

from typing import Literal

from pydantic import BaseModel, Field

NOTICE = "Not a medical device: for research. No answer may guide the care of a patient."


class FedkimFacts(BaseModel):
    """What this service says beyond OpenAI's schema."""

    task: str = Field(description="The task that was asked; it routed the experts.")
    task_inferred: bool = Field(
        description="True where the request named no task and the server chose one from the "
        "modalities and the question."
    )
    modalities: list[str] = Field(description="What the model read, text among them.")
    expert_weights: list[float] | None = Field(
        description="alpha, each expert's share, summing to 1; null without experts."
    )
    label_probabilities: dict[str, float] | None = Field(
        description="Probability of each answer word of a yes/no task, compared with each other; "
        "null for generated answers."
    )
    bundle_version: str = Field(description="First digits of the SHA-256 of the trained weights.")
    notice: str = NOTICE


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int = Field(description="Positions that the model read, modality tokens too.")
    completion_tokens: int
    total_tokens: int


class AnswerMessage(BaseModel):
    """The model's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """The one answer."""

    index: int = 0
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatCompletion(BaseModel):
    """OpenAI's chat completion, with ``fedkim``."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Unix time in seconds.")
    model: str
    choices: list[ChatChoice]
    usage: Usage
    fedkim: FedkimFacts


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
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    fedkim: FedkimFacts | None = None
    bundle_version: str = Field(exclude=True, description="Of the replica that answers; not sent.")


class Prediction(BaseModel):
    """One patient's answer."""

    index: int = Field(description="Place of the patient in the request's `inputs`, from 0.")
    answer: str
    label_probabilities: dict[str, float] | None = Field(
        description="As in a chat's `fedkim`; null for generated answers."
    )
    completion_tokens: int = Field(description="Tokens of the answer; 1 for yes/no.")
    expert_weights: list[float] | None
    modalities: list[str]
    bundle_version: str = Field(
        description="Of the replica that answered; while a new bundle rolls in, patients of one "
        "request may meet both."
    )


class Predictions(BaseModel):
    """Answers in the order of the request's ``inputs``."""

    object: Literal["list"] = "list"
    task: str
    model: str
    bundle_version: str = Field(description="Of the first patient's answer.")
    data_kind: str = Field(description="Whether the task was trained on real or synthetic data.")
    notice: str = NOTICE
    data: list[Prediction]


class ModelFacts(BaseModel):
    """OpenAI's model, with where it comes from."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "fedkim-ray"
    bundle_version: str
    variant: str
    base_model: str
    notice: str = NOTICE


class ModelList(BaseModel):
    """OpenAI's list of models: the one bundle that is served."""

    object: Literal["list"] = "list"
    data: list[ModelFacts]


class FeatureFacts(BaseModel):
    """One feature of a time series."""

    name: str
    unit: str
    low: float = Field(description="Smaller values are refused, in `unit`.")
    high: float = Field(description="Larger values are refused, in `unit`.")


class InputFacts(BaseModel):
    """What one modality's input looks like."""

    image_size_px: int | None = Field(None, description="Side that images are scaled to.")
    leads: list[str] | None = None
    sampling_rate_hz: float | None = None
    num_samples: int | None = Field(None, description="Samples a lead that the model reads.")
    unit: str | None = None
    hours: int | None = None
    features: list[FeatureFacts] | None = None


class TaskFacts(BaseModel):
    """One task of the bundle."""

    id: str
    role: str = Field(description="`train`, or `unseen`: asked by its description alone.")
    kind: str = Field(description="`yes_no` or `generate`.")
    modalities: list[str]
    question: str = Field(description="What is asked where a request has no question.")
    description: str = Field(description="The text that routes the experts.")
    answer_words: list[str] | None
    data_kind: str = Field(description="`real`, `synthetic` or both.")
    inputs: dict[str, InputFacts]


class TaskList(BaseModel):
    """All tasks of the bundle."""

    object: Literal["list"] = "list"
    bundle_version: str
    notice: str = NOTICE
    data: list[TaskFacts]


class Experts(BaseModel):
    """Expert weights of every task with all of its modalities present."""

    num_experts: int
    bundle_version: str
    tasks: dict[str, list[float] | None]
