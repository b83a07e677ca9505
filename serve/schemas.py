"""What requests look like; what answers look like is in ``answers.py``.

The chat request is OpenAI's, with three content parts and one field more. Unknown fields are
refused by name, because a parameter that is silently ignored gives an answer that nobody asked
for.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from fedkim_ray.data.readers.recordings import MAX_RATE_HZ, MIN_RATE_HZ
from serve.field_types import (
    MAX_FIELDS,
    Finite,
    Lead,
    Listed,
    Nothing,
    Sent,
    Table,
    Text,
    at_most,
)


class ImageUrl(Sent):
    """An image inside the request."""

    url: Text = Field(
        description="`data:image/png;base64,…` or `data:image/jpeg;base64,…`. An https address is "
        "fetched where the operator allows its host (none by default), within the operator's "
        "limits (5 s and 16 MiB unless changed); redirects are not followed."
    )
    detail: Literal["auto", "low", "high"] = Field(
        "auto", description="OpenAI's hint; images are always scaled to the model's own size."
    )


class EcgFile(Sent):
    """A recording in a file."""

    format: Literal["wfdb", "dicom", "csv", "npy"] = Field(
        description="`wfdb`: a record of one signal file; `dicom`: a waveform object; `csv`: the "
        "leads' names in the first line, then one line a sample; `npy`: a NumPy array of leads x "
        "samples. WFDB and DICOM tell leads, rate and units themselves."
    )
    data: Text = Field(description="The file (for `wfdb` its signal file), base64; at most 16 MiB.")
    header: Text | None = Field(None, description="For `wfdb`: the .hea file, base64.")


class Ecg(Sent):
    """An electrocardiogram: `data`, or a `file`."""

    leads: Annotated[list[Text], Field(fail_fast=True)] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Name of each row of `data`, such as I, II, V1. The leads that the model "
        "reads (see /v1/tasks) must be among them; capitals do not matter.",
    )
    sampling_rate_hz: Finite | None = Field(
        None,
        ge=MIN_RATE_HZ,
        le=MAX_RATE_HZ,
        description="Samples a second; resampled to the model's own rate.",
    )
    unit: Literal["mV", "uV"] = Field("mV", description="Unit of `data`, CSV and NPY.")
    data: Annotated[list[Lead], Field(fail_fast=True)] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Leads x samples. Cut or padded with zeros at the end to the model's length; "
        "at least one second; at most 200000 samples, as sent and at the model's rate.",
    )
    file: EcgFile | None = Field(None, description="The recording in a file, in place of `data`.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = {name for name in ("leads", "sampling_rate_hz", "data") if getattr(self, name)}
        if (self.file is None) == (self.data is None):
            raise ValueError("an ECG has either `data` or `file`")
        if self.file is None and len(given) < 3:
            raise ValueError("beside `data` stand `leads` and `sampling_rate_hz`")
        return self


class Dicom(Sent):
    """An image in a DICOM file."""

    data: Text = Field(
        description="The file, base64, at most 16 MiB: one frame of grey or colour pixels, in any "
        "transfer syntax but the deflated one. Window and inversion are applied; nothing but "
        "pixels is read."
    )


SeriesName = Annotated[str, Field(pattern="^(lab|vital|input|output)$")]
Series = Annotated[
    dict[SeriesName, Table],
    BeforeValidator(at_most(MAX_FIELDS)),
    Field(
        description="`{modality: {feature: value or list}}`. Names, units and bounds are those of "
        "/v1/tasks. A list has one value an hour from the first hour on; null, a feature left out "
        "and hours after the list's end mean: not measured."
    ),
]


class TextPart(Sent):
    """Words."""

    type: Literal["text"] = Field(description="`text`.")
    text: Text = Field(description="Words; the text of a chat is limited in characters.")


class ImagePart(Sent):
    """An image, as OpenAI sends it."""

    type: Literal["image_url"] = Field(description="`image_url`.")
    image_url: ImageUrl = Field(description="The image; bytes and pixels are limited.")


class DicomPart(Sent):
    """An image in a DICOM file."""

    type: Literal["input_dicom"] = Field(description="`input_dicom`.")
    input_dicom: Dicom = Field(description="The file; its bytes and pixels are limited.")


class EcgPart(Sent):
    """An electrocardiogram."""

    type: Literal["input_ecg"] = Field(description="`input_ecg`.")
    input_ecg: Ecg = Field(description="The recording, in millivolt or microvolt.")


class SeriesPart(Sent):
    """Laboratory values, vital signs, inputs and outputs."""

    type: Literal["input_series"] = Field(description="`input_series`.")
    input_series: Series


Part = Annotated[
    TextPart | ImagePart | DicomPart | EcgPart | SeriesPart, Field(discriminator="type")
]


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Content = Annotated[
    Listed[Part],
    BeforeValidator(_as_parts, json_schema_input_type=str | list[Part]),
]


class Message(Sent):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="Who speaks; inputs stand in the user's messages."
    )
    content: Content = Field(
        description="Words, or a list of parts. Images, ECGs and series are taken from all "
        "messages of the user, at most one of each in a chat."
    )
    name: Text | None = Field(None, description="OpenAI's field; has no effect.")
    refusal: Nothing = Field(None, description="Null, as in an answer that is sent back.")
    annotations: Nothing = Field(None, description="As `refusal`.")
    audio: Nothing = Field(None, description="As `refusal`.")
    function_call: Nothing = Field(None, description="As `refusal`.")
    tool_calls: Nothing = Field(None, description="As `refusal`.")
    parsed: Nothing = Field(None, description="As `refusal`; package `openai` adds it.")


class StreamOptions(Sent):
    """OpenAI's options of a stream."""

    include_usage: bool = Field(False, description="Send a last chunk with the token counts.")


StopText = Annotated[str, Field(min_length=1, max_length=64)]


NO_FIELDS_HERE = frozenset(
    {"audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs"}
    | {"metadata", "modalities", "moderation", "parallel_tool_calls", "prediction"}
    | {"presence_penalty", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}
    | {"reasoning_effort", "response_format", "safety_identifier", "service_tier", "store"}
    | {"tool_choice", "tools", "top_logprobs", "verbosity", "web_search_options"}
)
"""OpenAI's fields that this service does not have: null asks for nothing, anything else is refused
like any unknown field."""


def _without_nulls(fields: Any) -> Any:
    if not isinstance(fields, dict):
        return fields
    return {k: v for k, v in fields.items() if v is not None or k not in NO_FIELDS_HERE}


class ChatRequest(Sent):
    """OpenAI's chat completion request; those of its fields that are not here may be null."""

    model: Text = Field(description="The id that /v1/models gives.")
    messages: Listed[Message] = Field(
        min_length=1,
        description="The last message is the user's; its last text is the question. Text before "
        "it (system messages, earlier turns, earlier parts) goes to the model ahead of it.",
    )
    task: str | None = Field(
        None,
        max_length=2000,
        description="A task's id (see /v1/tasks), or a description of a new task in a sentence, "
        "by which the experts are routed. Inferred from inputs and question where absent; the "
        "answer says so.",
    )
    stream: bool | None = Field(
        False, description="Send the answer word by word as server-sent events."
    )
    stream_options: StreamOptions | None = Field(None, description="OpenAI's options.")
    max_tokens: int | None = Field(
        None, ge=1, description="Tokens generated at most; 64 where absent. Yes/no needs none."
    )
    max_completion_tokens: int | None = Field(None, ge=1, description="As `max_tokens`.")
    temperature: Finite | None = Field(
        None,
        ge=0.0,
        le=2.0,
        description="0, or where absent, always takes the most likely token.",
    )
    top_p: Finite | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="Above temperature 0, tokens are drawn from the most likely ones that hold "
        "this share of the probability; from all, 1, where absent.",
    )
    seed: int | None = Field(
        None,
        ge=-(2**63),
        lt=2**63,
        description="Above temperature 0, the same seed draws the same answer.",
    )
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = Field(
        None,
        description="Up to 4 texts that end the answer and are left out of it. No meaning for "
        "yes/no tasks.",
    )
    n: Literal[1] | None = Field(1, description="One answer a request.")
    user: Text | None = Field(None, description="OpenAI's field; has no effect and is not kept.")

    @model_validator(mode="before")
    @classmethod
    def _asks(cls, fields: Any) -> Any:
        return _without_nulls(fields)


class PatientInput(Sent):
    """One patient's inputs."""

    image: Text | None = Field(
        None,
        description="A PNG, JPEG or DICOM image, as in `image_url.url` of a chat; "
        "`data:application/dicom;base64,…` for DICOM.",
    )
    ecg: Ecg | None = Field(None, description="An electrocardiogram, in millivolt or microvolt.")
    series: Series | None = Field(
        None, description="Laboratory values, vital signs, inputs and outputs, hour by hour."
    )
    text: Text | None = Field(None, description="A note or report that goes ahead of the question.")
    question: str | None = Field(
        None, min_length=1, description="What to ask; the task's own question where absent."
    )


class PredictRequest(Sent):
    """One task asked about one or many patients."""

    inputs: Listed[PatientInput] = Field(
        min_length=1, description="Patients; answered in this order. Their number is limited."
    )
    max_tokens: int = Field(
        16, ge=1, description="Tokens generated at most; yes/no tasks generate none."
    )
