"""The engine: answers do not depend on company, streams end, cancel and stay bounded."""

import asyncio
from dataclasses import replace

import pytest

from fedkim_ray.bundle.read import load_bundle
from fedkim_ray.data.loading import collate
from fedkim_ray.injection.inference import generate
from serve.choosing import described_task
from serve.engine import EngineRequest, Piece
from serve.errors import FieldError, NotReadyError, OverloadedError
from serve.transformers_engine import TransformersEngine


async def whole(engine: TransformersEngine, request: EngineRequest) -> list[Piece]:
    return [piece async for piece in engine.generate(request)]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_an_answer_equals_the_one_computed_alone(
    engine: TransformersEngine, requests: list[EngineRequest]
) -> None:
    yes_no = [r for r in requests if r.task.kind == "yes_no"]

    async def both() -> None:
        alone = [(await engine.score([r]))[0] for r in yes_no]
        together = await engine.score(yes_no)
        for one, many in zip(alone, together, strict=True):
            assert many.probabilities == pytest.approx(one.probabilities, abs=1e-4)
            assert many.origin.expert_weights == pytest.approx(one.origin.expert_weights, abs=1e-5)
            assert many.origin.num_prompt_tokens == one.origin.num_prompt_tokens
            assert sum(many.probabilities) == pytest.approx(1.0)

    asyncio.run(both())


def test_generated_tokens_equal_those_computed_alone(
    engine: TransformersEngine, requests: list[EngineRequest]
) -> None:
    async def both() -> None:
        alone = [text_of(await whole(engine, r)) for r in requests]
        together = await asyncio.gather(*(whole(engine, r) for r in requests))
        assert [text_of(pieces) for pieces in together] == alone
        assert len(set(alone)) > 1

    asyncio.run(both())


def test_pieces_join_to_what_generate_gives(
    engine: TransformersEngine, requests: list[EngineRequest]
) -> None:
    request = requests[-1]
    pieces = asyncio.run(whole(engine, request))
    batch = collate([request.example], engine.facts.spec)
    assert text_of(pieces) == generate(engine.model, batch, request.max_new_tokens)[0]
    assert [p.num_tokens for p in pieces[:-1]] == list(range(1, len(pieces)))
    assert pieces[-1].finish_reason in {"stop", "length"}
    assert all(p.finish_reason is None for p in pieces[:-1])


def test_a_described_task_routes_by_its_words_and_is_forgotten(
    engine: TransformersEngine, requests: list[EngineRequest]
) -> None:
    tasks = [
        described_task(text, ("image",), "Is it there?")
        for text in ("Find a broken rib in a chest X-ray.", "Measure the heart's rhythm.")
    ]
    image = next(r for r in requests if r.task.id == "lung_opacity").example
    asked = [EngineRequest(task=t, example=replace(image, task=t.id)) for t in tasks]
    kept = len(engine.model._described)
    first, second = asyncio.run(engine.score(asked))
    assert first.origin.expert_weights != second.origin.expert_weights
    assert not any(t.id in engine.model.tasks for t in tasks)
    assert len(engine.model._described) == kept


def test_a_consumer_that_goes_away_stops_its_stream(
    engine: TransformersEngine, requests: list[EngineRequest]
) -> None:
    async def leave() -> None:
        stream = engine.generate(replace(requests[-1], max_new_tokens=400))
        await anext(stream)
        assert engine._decoding
        await stream.aclose()
        async with asyncio.timeout(5):
            while engine._decoding:
                await asyncio.sleep(0.01)

    asyncio.run(leave())


def test_a_question_that_does_not_fit_fails_alone(
    engine: TransformersEngine, requests: list[EngineRequest]
) -> None:
    good = next(r for r in requests if r.task.kind == "yes_no")
    long = replace(good, example=replace(good.example, question="heart " * 2000))

    async def ask() -> None:
        answers = await asyncio.gather(
            engine.score([good]), engine.score([long]), return_exceptions=True
        )
        assert not isinstance(answers[0], BaseException)
        assert isinstance(answers[1], FieldError)
        with pytest.raises(FieldError, match=r"tokens and 8 more.*Shorten the text"):
            await whole(engine, replace(long, max_new_tokens=8))

    asyncio.run(ask())


def test_a_full_waiting_room_refuses_and_a_closed_engine_says_so(
    bundle_url: str, requests: list[EngineRequest]
) -> None:
    small = TransformersEngine(load_bundle(bundle_url), max_waiting=1)
    good = next(r for r in requests if r.task.kind == "yes_no")
    with pytest.raises(OverloadedError, match="At most 1 wait"):
        asyncio.run(small.score([good, good]))
    assert len(asyncio.run(small.score([good]))) == 1
    small.close()
    with pytest.raises(NotReadyError):
        asyncio.run(small.score([good]))
    with pytest.raises(NotReadyError):
        asyncio.run(small.describe())
