"""A chat's answer in OpenAI's schema, whole or chunk by chunk."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from serve.answers import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChunkChoice,
    Delta,
    FedkimFacts,
    Usage,
)
from serve.gateway import Asked, Gateway, Said, new_answer_id


async def complete(gateway: Gateway, asked: Asked) -> ChatCompletion:
    """Return the whole answer."""
    model = (await gateway.served.described()).facts.name
    said = await gateway.whole(asked)
    return ChatCompletion(
        id=new_answer_id(),
        created=int(time.time()),
        model=model,
        choices=[
            ChatChoice(
                message=AnswerMessage(content=said.piece.text),
                finish_reason=said.piece.finish_reason or "stop",
            )
        ],
        usage=_usage(said),
        fedkim=_facts(asked, said),
    )


async def chunks(
    gateway: Gateway, asked: Asked, with_usage: bool
) -> AsyncGenerator[ChatChunk, None]:
    """Yield the answer as OpenAI's chunks; closing the iterator cancels the rest.

    The last chunk with a choice carries ``fedkim``. Nothing is yielded before the model has
    begun, so that a refusal can still become an error status.
    """
    answer_id, created = new_answer_id(), int(time.time())
    model = (await gateway.served.described()).facts.name

    def chunk(said: Said, *choices: ChunkChoice) -> ChatChunk:
        return ChatChunk(
            id=answer_id,
            created=created,
            model=model,
            choices=list(choices),
            bundle_version=said.piece.origin.bundle_version,
        )

    opened = False
    async with aclosing(gateway.parts(asked)) as parts:
        async for said in parts:
            if not opened:
                yield chunk(said, ChunkChoice(delta=Delta(role="assistant", content="")))
                opened = True
            if said.piece.text:
                yield chunk(said, ChunkChoice(delta=Delta(content=said.piece.text)))
            if reason := said.piece.finish_reason:
                last = chunk(said, ChunkChoice(delta=Delta(), finish_reason=reason))
                yield last.model_copy(update={"fedkim": _facts(asked, said)})
                if with_usage:
                    yield chunk(said).model_copy(update={"usage": _usage(said)})


def _usage(said: Said) -> Usage:
    read, written = said.piece.origin.num_prompt_tokens, said.piece.num_tokens
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def _facts(asked: Asked, said: Said) -> FedkimFacts:
    origin = said.piece.origin
    return FedkimFacts(
        task=asked.request.task.id,
        task_inferred=asked.task_inferred,
        modalities=list(asked.modalities),
        expert_weights=None if origin.expert_weights is None else list(origin.expert_weights),
        label_probabilities=said.probabilities,
        bundle_version=origin.bundle_version,
    )
