"""From a chat to one patient's inputs and one question."""

from collections.abc import Iterator

from fedkim_ray.types import Modality
from serve.engine import Sampling
from serve.errors import FieldError
from serve.field_types import Hourly
from serve.inputs import RawInput
from serve.limits import Limits
from serve.schemas import ChatRequest, Message, Part, TextPart
from serve.sent_ecg import SentEcg

DEFAULT_NEW_TOKENS = 64
DICOM_URL = "data:application/dicom;base64,"


def read_chat(request: ChatRequest, limits: Limits) -> RawInput:
    """Collect inputs and question from all messages.

    The model reads one user's turn. Its question is the last text of the last message; all text
    before it goes ahead of the question. Images, ECGs and series come from the user's messages,
    one of each.

    Raises:
        FieldError: the chat has too many messages, does not end with the user, or carries an
            input twice or outside the user's messages.
    """
    if len(request.messages) > limits.messages:
        raise FieldError(
            f"The chat has {len(request.messages)} messages.",
            f"At most {limits.messages} are read.",
            "Leave out the oldest.",
            "messages",
        )
    last = len(request.messages) - 1
    if request.messages[last].role != "user":
        raise FieldError(
            f"The last message is the {request.messages[last].role}'s.",
            "It is the user's, with the question.",
            "Add the question.",
            f"messages[{last}].role",
        )
    collected = _Collected()
    for index, message in enumerate(request.messages):
        for path, part in _parts(index, message):
            collected.add(path, part, message.role)
    has_question = any(isinstance(p, TextPart) for p in request.messages[last].content)
    return collected.finish(has_question)


def read_sampling(request: ChatRequest, limits: Limits) -> Sampling:
    """Return how the answer's words are to be chosen.

    Raises:
        FieldError: more tokens are asked for than the limit.
    """
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    return Sampling(
        max_new_tokens=_new_tokens(request, limits),
        temperature=request.temperature or 0.0,
        top_p=request.top_p or 1.0,
        seed=request.seed,
        stop=stop,
    )


def _new_tokens(request: ChatRequest, limits: Limits) -> int:
    asked = request.max_completion_tokens or request.max_tokens
    if asked is None:
        return min(DEFAULT_NEW_TOKENS, limits.new_tokens)
    if asked > limits.new_tokens:
        field = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
        raise FieldError(
            f"{field} is {asked}.", f"At most {limits.new_tokens}.", "Lower it.", field
        )
    return asked


def _parts(index: int, message: Message) -> Iterator[tuple[str, Part]]:
    for place, part in enumerate(message.content):
        yield f"messages[{index}].content[{place}]", part


class _Collected:
    """Parts of a chat as they are found."""

    def __init__(self) -> None:
        self.image: str | None = None
        self.ecg: SentEcg | None = None
        self.series: dict[Modality, dict[str, Hourly]] = {}
        self.texts: list[str] = []
        self.paths: dict[str, str] = {}

    def add(self, path: str, part: Part, role: str) -> None:
        """Take one part."""
        if isinstance(part, TextPart):
            self.texts.append(part.text)
            self.paths["question"] = f"{path}.text"
            return
        if role != "user":
            raise FieldError(
                f"{path} is an input in a message of the {role}.",
                "Inputs stand in the user's messages.",
                "Move it there.",
                path,
            )
        if part.type == "image_url":
            self._take("image", f"{path}.image_url.url", self.image is None)
            self.image = part.image_url.url
        elif part.type == "input_dicom":
            self._take("image", f"{path}.input_dicom.data", self.image is None)
            self.image = DICOM_URL + part.input_dicom.data
        elif part.type == "input_ecg":
            self._take("ecg", f"{path}.input_ecg", self.ecg is None)
            self.ecg = SentEcg.of(part.input_ecg)
        else:
            new = not self.series.keys() & part.input_series.keys()
            self._take("series", f"{path}.input_series", new)
            self.paths |= {m: f"{path}.input_series.{m}" for m in part.input_series}
            self.series.update(part.input_series)

    def _take(self, name: str, path: str, is_first: bool) -> None:
        if not is_first:
            raise FieldError(
                f"{path} is the second of its kind; the first is {self.paths[name]}.",
                "A chat is about one patient, with one of each input.",
                "Leave one out, or ask about several patients with /v1/tasks/{task}/predict.",
                path,
            )
        self.paths[name] = path

    def finish(self, has_question: bool) -> RawInput:
        """Return the inputs; the last text is the question where the last message has one."""
        *before, question = self.texts if has_question else [*self.texts, ""]
        return RawInput(
            image=self.image,
            ecg=self.ecg,
            series=self.series,
            question=question.strip(),
            text="\n".join(before) or None,
            paths=self.paths,
        )
