"""Questions in, answers out: what the HTTP routes do, without HTTP.

A yes/no task is answered by its label probabilities, in one pass; any other by generated words.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from fedkim_ray import telemetry
from fedkim_ray.data.loading import Example
from fedkim_ray.data.modalities import MODALITIES
from fedkim_ray.metric_names import EXPERT_WEIGHT
from fedkim_ray.types import Modality, Task, TaskId
from serve.answers import Prediction, Predictions
from serve.chat import new_tokens, read_chat
from serve.choosing import choose_task, is_described, known_task
from serve.engine import Description, Engine, EngineRequest, Piece
from serve.errors import DeadlineError, FieldError, UnknownNameError
from serve.inputs import RawInput, to_example
from serve.limits import Limits
from serve.schemas import ChatRequest, PatientInput, PredictRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question, understood."""

    request: EngineRequest
    modalities: tuple[Modality, ...]
    """What the model reads, text among them."""
    task_inferred: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """The next part of an answer."""

    piece: Piece
    probabilities: dict[str, float] | None = None
    """Of the answer words of a yes/no task."""


class Gateway:
    """Answers requests with one engine."""

    def __init__(self, engine: Engine, limits: Limits | None = None) -> None:
        self.engine = engine
        self.limits = limits or Limits()
        self.started = int(time.time())
        self._described: Description | None = None

    async def described(self) -> Description:
        """Return what is served; the engine is asked once."""
        if self._described is None:
            self._described = await self.engine.describe()
        return self._described

    async def tasks(self) -> Mapping[TaskId, Task]:
        """Return the bundle's tasks by id."""
        return {task.id: task for task in (await self.described()).facts.tasks}

    # ---- understanding ----------------------------------------------------------------------

    async def understand_chat(self, body: ChatRequest) -> Asked:
        """Find task, inputs and question of a chat.

        Raises:
            ServingError: model or task is unknown, or an input malformed.
        """
        facts = (await self.described()).facts
        if body.model != facts.name:
            raise UnknownNameError(
                f"There is no model {body.model[:80]!r}.",
                f"This service has {facts.name!r}.",
                "Use the id that /v1/models gives.",
                "model",
            )
        raw = read_chat(body, self.limits)
        choice = choose_task(await self.tasks(), body.task, raw.modalities, raw.question)
        num_new = new_tokens(body, self.limits)
        asked = await self._decode([raw], choice.task, num_new, body.temperature)
        return Asked(
            request=asked[0].request,
            modalities=asked[0].modalities,
            task_inferred=choice.inferred,
        )

    async def understand_inputs(self, task_id: TaskId, body: PredictRequest) -> list[Asked]:
        """Find the inputs of every patient of a ``predict`` request.

        Raises:
            ServingError: the task is unknown, or an input malformed.
        """
        task = known_task(await self.tasks(), task_id)
        for field, came, most in (
            ("inputs", len(body.inputs), self.limits.inputs),
            ("max_tokens", body.max_tokens, self.limits.new_tokens),
        ):
            if came > most:
                raise FieldError(
                    f"The request has {field} of {came}.",
                    f"At most {most}.",
                    "Send several requests, or lower it.",
                    field,
                )
        raws = [_raw(patient, f"inputs[{i}]") for i, patient in enumerate(body.inputs)]
        return await self._decode(raws, task, body.max_tokens)

    async def _decode(
        self, raws: Sequence[RawInput], task: Task, num_new: int, temperature: float = 0.0
    ) -> list[Asked]:
        """Decode inputs in a thread, so that a large image holds up nobody else's request."""
        spec = (await self.described()).facts.spec

        def decode() -> list[Asked]:
            examples = [to_example(raw, task, spec, self.limits) for raw in raws]
            return [
                Asked(
                    request=EngineRequest(
                        task=task,
                        example=example,
                        max_new_tokens=num_new,
                        temperature=temperature,
                    ),
                    modalities=_read_modalities(example),
                )
                for raw, example in zip(raws, examples, strict=True)
            ]

        return await asyncio.to_thread(decode)

    # ---- answering --------------------------------------------------------------------------

    async def predict(self, asked: Sequence[Asked]) -> Predictions:
        """Answer one task's question about one or many patients.

        Raises:
            ServingError: the engine cannot answer.
        """
        task = asked[0].request.task
        async with deadline(self.limits.request_s):
            if task.kind == "yes_no":
                said = await self._score([a.request for a in asked])
            else:
                said = list(await asyncio.gather(*(self.whole(a) for a in asked)))
        facts = (await self.described()).facts
        return Predictions(
            task=task.id,
            model=facts.name,
            bundle_version=said[0].piece.origin.bundle_version,
            data_kind=facts.data_kinds.get(task.id, "unknown"),
            data=[_prediction(i, a, s) for i, (a, s) in enumerate(zip(asked, said, strict=True))],
        )

    async def whole(self, asked: Asked) -> Said:
        """Return an answer whole: its last part, with the words of all."""
        parts = [part async for part in self.parts(asked)]
        last = parts[-1]
        text = "".join(part.piece.text for part in parts)
        piece = Piece(
            text=text,
            num_tokens=last.piece.num_tokens,
            finish_reason=last.piece.finish_reason,
            origin=last.piece.origin,
        )
        return Said(piece, last.probabilities)

    async def parts(self, asked: Asked) -> AsyncGenerator[Said, None]:
        """Yield an answer part by part; closing the iterator cancels the rest.

        Raises:
            ServingError: the engine cannot answer, or time is up.
        """
        if asked.request.task.kind == "yes_no":
            async with deadline(self.limits.request_s):
                scored = await self._score([asked.request])
            yield scored[0]
            return
        ends_at = time.monotonic() + self.limits.request_s
        pieces = self.engine.generate(asked.request)
        try:
            finished = False
            while not finished:
                async with deadline(ends_at - time.monotonic()):
                    piece = await anext(pieces)
                finished = piece.finish_reason is not None
                if finished:
                    observe_experts(asked.request.task, piece)
                yield Said(piece)
        finally:
            await pieces.aclose()

    async def _score(self, requests: Sequence[EngineRequest]) -> list[Said]:
        task = requests[0].task
        said = []
        for scored in await self.engine.score(requests):
            no, yes = scored.probabilities
            piece = Piece(
                text=task.answer_words[int(yes > no)],
                num_tokens=1,
                finish_reason="stop",
                origin=scored.origin,
            )
            observe_experts(task, piece)
            said.append(Said(piece, dict(zip(task.answer_words, (no, yes), strict=True))))
        return said


@contextlib.asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """End a block after ``seconds``.

    Raises:
        DeadlineError: it took longer.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise DeadlineError(
            "The answer took too long.", "It comes within the service's limit.", "Ask for less."
        ) from None


def task_label(task: Task) -> str:
    """Return a task's name in metrics: described ones share a label, or users could fill it."""
    return "described" if is_described(task) else task.id


def observe_experts(task: Task, piece: Piece) -> None:
    """Record which experts answered."""
    for expert, weight in enumerate(piece.origin.expert_weights or ()):
        telemetry.observe(EXPERT_WEIGHT, weight, task=task_label(task), expert=expert)


def new_answer_id() -> str:
    """Return an id as OpenAI's answers have one."""
    return f"chatcmpl-{uuid.uuid4().hex}"


def _read_modalities(example: Example) -> tuple[Modality, ...]:
    carried = (*example.arrays, *(("text",) if example.text else ()))
    return tuple(m for m in MODALITIES if m in carried)


def _raw(patient: PatientInput, path: str) -> RawInput:
    names = ("image", "ecg", "series", "question")
    return RawInput(
        image=patient.image,
        ecg=patient.ecg,
        series=patient.series or {},
        question=patient.question or "",
        text=patient.text,
        paths={name: f"{path}.{name}" for name in names},
    )


def _prediction(index: int, asked: Asked, said: Said) -> Prediction:
    weights = said.piece.origin.expert_weights
    return Prediction(
        index=index,
        answer=said.piece.text,
        label_probabilities=said.probabilities,
        expert_weights=None if weights is None else list(weights),
        modalities=list(asked.modalities),
    )
