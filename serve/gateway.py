"""Questions in, answers out: what the HTTP routes do, without HTTP.

A yes/no task is answered by its label probabilities, in one pass; any other by generated words.
"""

import asyncio
import math
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from fedkim_ray import telemetry
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.metric_names import EXPERT_WEIGHT, ROUTING_ENTROPY
from fedkim_ray.types import Modality, Task, TaskId
from serve.answers import Prediction, Predictions
from serve.catalogue import known_model
from serve.chat import read_chat, read_sampling
from serve.choosing import Choice, choose_task, known_task, task_label
from serve.engine import Description, Engine, EngineRequest, Piece, Sampling, Scored
from serve.errors import FieldError, StaleInputsError
from serve.inputs import RawInput, require_short
from serve.limits import Limits
from serve.preparing import LocalPreparer, Prepared, Preparer
from serve.schemas import ChatRequest, PatientInput, PredictRequest
from serve.sent_ecg import SentEcg
from serve.served import Served
from serve.together import together

PAUSES_S = (0.0, 0.5, 1.0)
"""Seconds before inputs are prepared anew for an engine of another bundle, each time it refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question, understood."""

    request: EngineRequest
    raw: RawInput
    """What ``request`` was made of: an engine of another bundle has it prepared anew."""
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

    def __init__(
        self, engine: Engine, limits: Limits | None = None, preparer: Preparer | None = None
    ) -> None:
        """Put the parts together.

        Args:
            engine: The model.
            limits: Bounds of one request.
            preparer: What decodes inputs; this process where None.
        """
        self.engine = engine
        self.served = Served(engine)
        self.limits = limits or Limits()
        self.preparer = preparer or LocalPreparer(self._spec, self.limits)
        self.started = int(time.time())

    async def _spec(self) -> DataSpec:
        return (await self.served.described()).facts.spec

    # ---- understanding ----------------------------------------------------------------------

    async def understand_chat(self, body: ChatRequest) -> Asked:
        """Find task, inputs and question of a chat.

        Raises:
            ServingError: model or task is unknown, or an input malformed.
        """
        raw = read_chat(body, self.limits)
        require_short(raw, self.limits)  # a task is found by its words
        choice = await self.served.find(lambda described: _choose(described, body, raw))
        sampling = read_sampling(body, self.limits)
        [asked] = await self._prepare([raw], choice.task, sampling)
        return replace(asked, task_inferred=choice.inferred)

    async def find_task(self, task_id: TaskId, body: PredictRequest) -> Task:
        """Find the task of a ``predict`` request, which asks for no more than one may.

        Raises:
            ServingError: the task is unknown, or the request too large.
        """
        task = await self.served.find(lambda described: known_task(_tasks(described), task_id))
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
        return task

    async def understand_inputs(self, task: Task, body: PredictRequest) -> list[Asked]:
        """Find the inputs of every patient of a ``predict`` request.

        Raises:
            ServingError: an input is malformed.
        """
        raws = [raw_input(patient, f"inputs[{i}]") for i, patient in enumerate(body.inputs)]
        for raw in raws:
            require_short(raw, self.limits)
        return await self._prepare(raws, task, Sampling(max_new_tokens=body.max_tokens))

    async def _prepare(
        self, raws: Sequence[RawInput], task: Task, sampling: Sampling
    ) -> list[Asked]:
        """Decode and encode inputs, and put each behind its question."""
        prepared = await self.preparer.prepare(raws, task)
        return [_asked(raw, p, task, sampling) for raw, p in zip(raws, prepared, strict=True)]

    # ---- answering --------------------------------------------------------------------------

    async def predict(self, asked: Sequence[Asked]) -> Predictions:
        """Answer one task's question about one or many patients.

        Raises:
            ServingError: the engine cannot answer.
        """
        task = asked[0].request.task
        facts = (await self.served.described()).facts
        if task.kind == "yes_no":
            said = await self._score(asked)
        else:
            said = await together(self.whole(a) for a in asked)
        return Predictions(
            task=task.id,
            model=facts.name,
            bundle_version=said[0].piece.origin.bundle_version,
            data_kind=facts.data_kinds.get(task.id, "unknown"),
            data=[_prediction(i, a, s) for i, (a, s) in enumerate(zip(asked, said, strict=True))],
        )

    async def whole(self, asked: Asked) -> Said:
        """Return an answer whole: its last part, with the words of all."""
        at_once = replace(asked, request=replace(asked.request, in_pieces=False))
        parts = [part async for part in self.parts(at_once)]
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
            ServingError: the engine cannot answer.
        """
        if asked.request.task.kind == "yes_no":
            yield (await self._score([asked]))[0]
            return
        async with aclosing(self._generate(asked)) as pieces:
            async for piece in pieces:
                finished = piece.finish_reason is not None
                if finished:
                    observe_experts(asked.request.task, piece)
                yield Said(piece)
                if finished:
                    return

    async def _generate(self, asked: Asked) -> AsyncGenerator[Piece, None]:
        """Yield the engine's pieces; inputs that it finds stale are prepared anew."""
        for pause_s in (*PAUSES_S, None):
            try:
                async with aclosing(self.engine.generate(asked.request)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except StaleInputsError:  # before the first piece
                if pause_s is None:
                    raise
                [asked] = await self._anew([asked], pause_s)

    async def _scored(self, asked: Sequence[Asked]) -> list[Scored]:
        """Return the engine's scores; inputs that it finds stale are prepared anew."""
        for pause_s in PAUSES_S:
            try:
                return await self.engine.score([a.request for a in asked])
            except StaleInputsError:
                asked = await self._anew(asked, pause_s)
        return await self.engine.score([a.request for a in asked])

    async def _anew(self, asked: Sequence[Asked], pause_s: float) -> list[Asked]:
        """Prepare inputs again, for the engine to encode.

        Encoders come up before a large model does: for minutes those of the next bundle may prepare
        what the model of the last one answers.
        """
        await asyncio.sleep(pause_s)
        raws, task = [a.raw for a in asked], asked[0].request.task
        prepared = await self.preparer.prepare(raws, task, encoded=False)
        return [
            replace(a, request=_asking(a.request, p)) for a, p in zip(asked, prepared, strict=True)
        ]

    async def _score(self, asked: Sequence[Asked]) -> list[Said]:
        task = asked[0].request.task
        said = []
        for scored in await self._scored(asked):
            no, yes = scored.probabilities
            piece = Piece(
                text=scored.answer_words[int(yes > no)],
                num_tokens=1,
                finish_reason="stop",
                origin=scored.origin,
            )
            observe_experts(task, piece)
            said.append(Said(piece, dict(zip(scored.answer_words, (no, yes), strict=True))))
        return said


def _asked(raw: RawInput, prepared: Prepared, task: Task, sampling: Sampling) -> Asked:
    request = EngineRequest(
        task=task,
        example=prepared.example,
        sampling=sampling,
        question_field=raw.path_of("question"),
    )
    return Asked(
        request=_asking(request, prepared),
        raw=raw,
        modalities=prepared.example.carried_for(task),
    )


def _asking(request: EngineRequest, prepared: Prepared) -> EngineRequest:
    """Return a request about inputs as they were prepared."""
    return replace(
        request, example=prepared.example, features=prepared.features, spec=prepared.spec
    )


def _tasks(described: Description) -> Mapping[TaskId, Task]:
    return {task.id: task for task in described.facts.tasks}


def _choose(described: Description, body: ChatRequest, raw: RawInput) -> Choice:
    """Return the task of a chat.

    Raises:
        UnknownNameError: its model or task is none of what is served.
    """
    known_model(described, body.model)
    return choose_task(_tasks(described), body.task, raw.modalities, raw.question)


def observe_experts(task: Task, piece: Piece) -> None:
    """Record which experts answered, and how evenly they shared the answer."""
    weights, label = piece.origin.expert_weights, task_label(task)
    for expert, weight in enumerate(weights or ()):
        telemetry.observe(EXPERT_WEIGHT, weight, task=label, expert=expert)
    if weights:
        telemetry.observe(ROUTING_ENTROPY, entropy_nats(weights), task=label)


def entropy_nats(weights: Sequence[float]) -> float:
    """Return -sum alpha ln alpha: 0 where one expert answers alone, ln P where all share alike."""
    return -sum(w * math.log(w) for w in weights if w > 0.0)


def new_answer_id() -> str:
    """Return an id as OpenAI's answers have one."""
    return f"chatcmpl-{uuid.uuid4().hex}"


def raw_input(patient: PatientInput, path: str) -> RawInput:
    """Return a patient of a ``predict`` request, who stands at ``path`` in it."""
    names = ("image", "ecg", "series", "question")
    return RawInput(
        image=patient.image,
        ecg=SentEcg.of(patient.ecg) if patient.ecg else None,
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
        completion_tokens=said.piece.num_tokens,
        expert_weights=None if weights is None else list(weights),
        modalities=list(asked.modalities),
        bundle_version=said.piece.origin.bundle_version,
    )
