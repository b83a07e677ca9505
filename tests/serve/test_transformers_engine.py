"""The engine: answers do not depend on company, streams end, cancel and stay bounded."""

import asyncio
from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

from fedkim_ray.bundle.read import load_bundle
from fedkim_ray.data.loading import collate
from fedkim_ray.data.schema import FeatureSpec
from fedkim_ray.injection.inference import generate
from fedkim_ray.metric_names import QUEUE_LENGTH, Metric
from serve.choosing import described_task
from serve.encoding import FeatureEncoder
from serve.engine import EngineRequest, Features, Piece, Sampling, Scored
from serve.errors import FieldError, InternalError, NotReadyError, OverloadedError, StaleInputsError
from serve.kv_cache import join_caches
from serve.sampling import Draw
from serve.transformers_engine import TransformersEngine
from serve.waiting import ScoreJob


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


def test_answers_that_join_late_and_leave_early_equal_those_computed_alone(
    engine: TransformersEngine, requests: list[EngineRequest]
) -> None:
    lengths = [24, 3, 11, 17, 1, 6] * (len(requests) // 6)
    asked = [
        replace(
            r,
            sampling=Sampling(max_new_tokens=n, temperature=1.0, seed=7)
            if n == 6
            else Sampling(max_new_tokens=n),
        )
        for r, n in zip(requests, lengths, strict=True)
    ]

    async def late(request: EngineRequest, place: int) -> str:
        await asyncio.sleep(0.004 * place)
        return text_of(await whole(engine, request))

    async def both() -> None:
        alone = [text_of(await whole(engine, r)) for r in asked]
        together = await asyncio.gather(*(late(r, i) for i, r in enumerate(asked)))
        assert together == alone

    asyncio.run(both())


def test_inputs_encoded_elsewhere_give_the_same_answer(
    engine: TransformersEngine, requests: list[EngineRequest], bundle_url: str
) -> None:
    yes_no = [r for r in requests if r.task.kind == "yes_no"]
    encoder = FeatureEncoder.from_bundle(bundle_url)
    features = encoder.encode([r.example for r in yes_no])
    fresh = [replace(r, features=f) for r, f in zip(yes_no, features, strict=True)]

    async def both() -> list[list[Scored]]:
        return [await engine.score(rows) for rows in (yes_no, fresh)]

    for one, two in zip(*asyncio.run(both()), strict=True):
        assert two.probabilities == pytest.approx(one.probabilities, abs=1e-6)
        assert two.origin == one.origin


def test_inputs_of_another_bundle_are_refused(
    engine: TransformersEngine, requests: list[EngineRequest]
) -> None:
    good, spec = next(r for r in requests if r.task.id == "mortality"), engine.facts.spec
    lab = spec.series["lab"]
    scaled = [f.model_copy(update={"center": f.center + 1}) for f in lab.features]
    first, second, *rest = lab.features

    def relaid(features: list[FeatureSpec]) -> EngineRequest:
        own = lab.model_copy(update={"features": tuple(features)})
        series = {**spec.series, "lab": own}
        return replace(good, spec=spec.model_copy(update={"series": series}))

    assert len(asyncio.run(engine.score([relaid(scaled)]))) == 1  # scales are the encoder's own
    encoded = replace(good, features=Features(bundle_version="old", by_group={}))
    for stale in (encoded, relaid([second, first, *rest])):
        with pytest.raises(StaleInputsError):
            asyncio.run(engine.score([good, stale]))
        with pytest.raises(StaleInputsError):
            asyncio.run(whole(engine, stale))


def test_a_stop_text_ends_the_answer_and_is_left_out(
    engine: TransformersEngine, requests: list[EngineRequest]
) -> None:
    request = replace(requests[-1], sampling=Sampling(max_new_tokens=16))
    plain = text_of(asyncio.run(whole(engine, request)))
    stop = plain[5:8]
    stopped = replace(request, sampling=Sampling(max_new_tokens=16, stop=(stop,)))
    pieces = asyncio.run(whole(engine, stopped))
    assert text_of(pieces) == plain[: plain.index(stop)].rstrip()
    assert pieces[-1].finish_reason == "stop"


def test_pieces_join_to_what_generate_gives(
    engine: TransformersEngine, requests: list[EngineRequest]
) -> None:
    request = requests[-1]
    pieces = asyncio.run(whole(engine, request))
    batch = collate([request.example], engine.facts.spec)
    assert text_of(pieces) == generate(engine.model, batch, request.sampling.max_new_tokens)[0]
    assert [p.num_tokens for p in pieces[:-1]] == list(range(1, len(pieces)))
    assert pieces[-1].finish_reason in {"stop", "length"}
    assert all(p.finish_reason is None for p in pieces[:-1])


def test_an_answer_that_nobody_reads_along_comes_at_once(
    engine: TransformersEngine, requests: list[EngineRequest]
) -> None:
    stop = text_of(asyncio.run(whole(engine, requests[-1])))[5:8]
    for sampling in (Sampling(max_new_tokens=8), Sampling(max_new_tokens=16, stop=(stop,))):
        request = replace(requests[-1], sampling=sampling)
        pieces = asyncio.run(whole(engine, request))
        (piece,) = asyncio.run(whole(engine, replace(request, in_pieces=False)))
        assert piece == replace(pieces[-1], text=text_of(pieces))


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
        stream = engine.generate(replace(requests[-1], sampling=Sampling(max_new_tokens=400)))
        await anext(stream)
        await anext(stream)  # out of a step of the running batch
        assert engine._running
        await stream.aclose()
        async with asyncio.timeout(5):
            while engine._running:
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
            await whole(engine, replace(long, sampling=Sampling(max_new_tokens=8)))

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


def test_an_idle_engine_tells_that_nobody_waits(
    bundle_url: str, requests: list[EngineRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[float] = []

    def set_gauge(metric: Metric, value: float, **labels: object) -> None:
        if metric == QUEUE_LENGTH:
            lengths.append(value)

    monkeypatch.setattr("fedkim_ray.telemetry.set_gauge", set_gauge)
    engine = TransformersEngine(load_bundle(bundle_url), max_batch=1)
    good = next(r for r in requests if r.task.kind == "yes_no")
    jobs = [ScoreJob(good) for _ in range(3)]

    def others_hang_up(taken: object) -> None:
        for job in jobs[1:]:
            job.answer.cancel()

    monkeypatch.setattr("serve.transformers_engine._observe_waits", others_hang_up)
    engine._room.enter(*jobs)

    async def rests() -> None:
        async with asyncio.timeout(10):
            while lengths[-2:] != [2, 0]:
                await asyncio.sleep(0.01)

    asyncio.run(rests())
    engine.close()


def test_a_text_that_no_tokenizer_reads_fails_alone(
    engine: TransformersEngine, requests: list[EngineRequest]
) -> None:
    good = next(r for r in requests if r.task.kind == "yes_no")
    half = replace(good, example=replace(good.example, text="\ud800"))

    async def ask() -> None:
        scored, broken, stream = await asyncio.gather(
            engine.score([good]), engine.score([half]), whole(engine, half), return_exceptions=True
        )
        assert not isinstance(scored, BaseException)
        assert isinstance(broken, InternalError)
        assert isinstance(stream, InternalError)
        assert len(await engine.score([good])) == 1

    asyncio.run(ask())


def test_a_row_whose_token_cannot_be_drawn_fails_alone(
    engine: TransformersEngine, requests: list[EngineRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = Draw.draw

    def fail_when_hot(self: Draw, logits_V: torch.Tensor) -> torch.Tensor:
        return draw(self, logits_V * (float("nan") if self.temperature == 2.0 else 1.0))

    monkeypatch.setattr(Draw, "draw", fail_when_hot)
    warm, hot = (
        replace(requests[-1], sampling=Sampling(max_new_tokens=8, temperature=t, seed=1))
        for t in (1.0, 2.0)
    )

    async def ask() -> None:
        alone = await whole(engine, warm)
        said, failed = await asyncio.gather(
            whole(engine, warm), whole(engine, hot), return_exceptions=True
        )
        assert isinstance(failed, InternalError)
        assert not isinstance(said, BaseException)
        assert text_of(said) == text_of(alone)

    asyncio.run(ask())


def test_a_join_that_fails_once_tells_no_word_twice(
    engine: TransformersEngine, requests: list[EngineRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short = (replace(requests[-1], sampling=Sampling(max_new_tokens=n)) for n in (400, 8))
    failures = [MemoryError()]

    def join(running: DynamicCache, joining: DynamicCache) -> None:
        if failures:
            raise failures.pop()
        join_caches(running, joining)

    async def ask() -> None:
        alone = [text_of(await whole(engine, r)) for r in (long, short)]
        monkeypatch.setattr("serve.running_batch.join_caches", join)
        monkeypatch.setattr(
            "serve.joining.Joining.now", lambda _, coming, running: coming > 1 or not running
        )
        stream = engine.generate(long)
        first = await anext(stream)
        both = await asyncio.gather(whole(engine, short), whole(engine, short))
        rest = [piece async for piece in stream]
        assert text_of([first, *rest]) == alone[0]
        assert [text_of(said) for said in both] == [alone[1]] * 2
        assert failures == []

    asyncio.run(ask())


def test_when_the_loop_dies_nobody_hangs_and_the_engine_is_unwell(
    bundle_url: str, requests: list[EngineRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TransformersEngine(load_bundle(bundle_url))
    good = next(r for r in requests if r.task.kind == "yes_no")

    def die(_jobs: object) -> None:
        raise MemoryError

    async def ask() -> None:
        stream = engine.generate(replace(requests[-1], sampling=Sampling(max_new_tokens=400)))
        await anext(stream)
        monkeypatch.setattr("serve.transformers_engine._observe_waits", die)
        async with asyncio.timeout(10):
            with pytest.raises(NotReadyError):  # taken out, and not answered yet
                await engine.score([good])
            with pytest.raises(NotReadyError):  # under way
                text_of([piece async for piece in stream])
            with pytest.raises(NotReadyError):  # comes too late
                await whole(engine, requests[-1])

    asyncio.run(ask())
    with pytest.raises(NotReadyError, match="has ended"):
        engine.require_alive()
