"""Real vLLM gives the transformers engine's answers: `make test-vllm`."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedkim_ray.bundle.read import load_bundle
from fedkim_ray.errors import EnvironmentProblemError
from serve.choosing import described_task
from serve.engine import EngineRequest, Piece, Sampling
from serve.errors import FieldError, NotReadyError, OverloadedError
from serve.transformers_engine import TransformersEngine
from serve.vllm_engine import VllmEngine
from serve.vllm_start import VllmSettings

pytestmark = [
    pytest.mark.vllm,
    # vLLM leaves a ZeroMQ context to the collector when it ends.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Unclosed context:ResourceWarning"),
]
TOLERANCE = 1e-4
"""Of a probability, in float32."""
SETTINGS = VllmSettings(max_adapters=2, adapters_per_batch=2)


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[..., Any]]:
    """One event loop for all tests: vLLM's outputs arrive in the loop of its first question."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def vllm(bundle_url: str, run: Callable[..., Any]) -> Iterator[VllmEngine]:
    """The engine over the tiny bundle, with room for two adapters."""
    engine = VllmEngine(bundle_url, settings=SETTINGS, max_batch=8, max_waiting=32)
    yield engine
    engine.close()
    with pytest.raises(NotReadyError):
        run(engine.describe())


async def whole(engine: Any, request: EngineRequest) -> list[Piece]:
    return [piece async for piece in engine.generate(request)]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


async def both_score(one: Any, other: Any, requests: list[EngineRequest]) -> None:
    for mine, theirs in zip(await one.score(requests), await other.score(requests), strict=True):
        assert mine.probabilities == pytest.approx(theirs.probabilities, abs=TOLERANCE)
        assert mine.origin.num_prompt_tokens == theirs.origin.num_prompt_tokens
        assert mine.origin.bundle_version == theirs.origin.bundle_version
        assert mine.origin.expert_weights == pytest.approx(theirs.origin.expert_weights, abs=1e-5)


async def both_generate(one: Any, other: Any, requests: list[EngineRequest]) -> set[str]:
    """Hold that both say the same, and return what they said."""
    mine = await asyncio.gather(*(whole(one, r) for r in requests))
    theirs = await asyncio.gather(*(whole(other, r) for r in requests))
    assert [text_of(p) for p in mine] == [text_of(p) for p in theirs]
    assert [(p[-1].num_tokens, p[-1].finish_reason) for p in mine] == [
        (p[-1].num_tokens, p[-1].finish_reason) for p in theirs
    ]
    return {text_of(p) for p in mine}


def test_probabilities_of_all_tasks_in_one_batch(
    vllm: VllmEngine,
    engine: TransformersEngine,
    requests: list[EngineRequest],
    run: Callable[..., Any],
) -> None:
    yes_no = [r for r in requests if r.task.kind == "yes_no"]
    run(both_score(vllm, engine, yes_no))


def test_greedy_answers_of_different_tasks_at_once(
    vllm: VllmEngine,
    engine: TransformersEngine,
    requests: list[EngineRequest],
    run: Callable[..., Any],
) -> None:
    assert len(run(both_generate(vllm, engine, requests))) > 1
    shelf = vllm._vllm.shelf
    assert shelf is not None
    assert len(shelf.keys) == 2  # many more were made
    assert len(list(shelf.home.iterdir())) == 2


def test_questions_that_join_an_answer_under_way(
    vllm: VllmEngine,
    engine: TransformersEngine,
    requests: list[EngineRequest],
    run: Callable[..., Any],
) -> None:
    """One step of vLLM then reads prompt embeddings and generated tokens together."""
    asked = next(r for r in requests if r.task.kind == "yes_no")
    long = replace(requests[-1], sampling=Sampling(max_new_tokens=400))

    async def join() -> None:
        stream = vllm.generate(long)
        await anext(stream)
        for _ in range(3):
            await both_score(vllm, engine, [asked])
        await both_generate(vllm, engine, requests[:4])
        assert vllm._num_inside == 1  # the long answer is still under way
        await stream.aclose()

    run(join())


def test_a_stop_text_and_a_described_task(
    vllm: VllmEngine,
    engine: TransformersEngine,
    requests: list[EngineRequest],
    run: Callable[..., Any],
) -> None:
    long = replace(requests[-1], sampling=Sampling(max_new_tokens=16))
    stop = text_of(run(whole(vllm, long)))[5:8]
    stopped = replace(long, sampling=Sampling(max_new_tokens=16, stop=(stop,)))
    run(both_generate(vllm, engine, [long, stopped]))
    task = described_task("Find a broken rib in a chest X-ray.", ("image",), "Is it there?")
    image = next(r for r in requests if r.task.id == "lung_opacity").example
    asked = EngineRequest(task=task, example=replace(image, task=task.id))
    run(both_score(vllm, engine, [asked]))
    assert task.id not in vllm.model.tasks


def test_a_drawn_answer_repeats_with_its_seed(
    vllm: VllmEngine, requests: list[EngineRequest], run: Callable[..., Any]
) -> None:
    hot = Sampling(max_new_tokens=12, temperature=1.0, top_p=0.95, seed=7)
    drawn = [run(whole(vllm, replace(requests[-1], sampling=hot))) for _ in range(2)]
    other = run(whole(vllm, replace(requests[-1], sampling=replace(hot, seed=8))))
    assert text_of(drawn[0]) == text_of(drawn[1]) != text_of(other)


def test_a_consumer_that_goes_away_frees_its_place(
    vllm: VllmEngine, requests: list[EngineRequest], run: Callable[..., Any]
) -> None:
    async def leave() -> None:
        stream = vllm.generate(replace(requests[-1], sampling=Sampling(max_new_tokens=400)))
        await anext(stream)
        assert vllm._num_inside == 1
        await stream.aclose()
        assert vllm._num_inside == 0
        async with asyncio.timeout(5):
            while vllm._vllm.llm.get_num_unfinished_requests():
                await asyncio.sleep(0.01)

    run(leave())


def test_what_does_not_fit_is_refused(
    vllm: VllmEngine, requests: list[EngineRequest], run: Callable[..., Any]
) -> None:
    good = next(r for r in requests if r.task.kind == "yes_no")
    long = replace(good, example=replace(good.example, question="heart " * 2000))
    with pytest.raises(FieldError, match=r"Shorten the text"):
        run(vllm.score([long]))
    with pytest.raises(OverloadedError, match="At most 40"):
        run(vllm.score([good] * 41))


def test_heads_that_vllm_cannot_compute_are_refused_at_the_start(
    write_tiny_bundle: Callable[..., str], tmp_path: Path
) -> None:
    with pytest.raises(EnvironmentProblemError, match=r"16 wide.*32, 64.*`transformers`"):
        VllmEngine(write_tiny_bundle(tmp_path, "m3oe"))


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_bundles_that_route_nothing(
    adapter: str,
    base: str,
    write_tiny_bundle: Callable[..., str],
    tmp_path: Path,
    requests: list[EngineRequest],
    run: Callable[..., Any],
) -> None:
    check_against_transformers(
        write_tiny_bundle(tmp_path, adapter, f"base.name={base}"), requests, run
    )


def test_an_adapted_head(
    base: str,
    write_tiny_bundle: Callable[..., str],
    tmp_path: Path,
    requests: list[EngineRequest],
    run: Callable[..., Any],
) -> None:
    """The tiny base's head is tied to its embeddings; vLLM adapts the head alone."""
    targets = "injection.m3oe.target_modules=all"
    url = write_tiny_bundle(tmp_path, "m3oe", targets, f"base.name={base}")
    check_against_transformers(url, requests, run)


def test_the_pretrained_base(
    write_tiny_bundle: Callable[..., str],
    tmp_path: Path,
    requests: list[EngineRequest],
    run: Callable[..., Any],
) -> None:
    """SmolLM2-135M with experts that were never trained: 210 adapted layers."""
    check_against_transformers(
        write_tiny_bundle(tmp_path, "m3oe", "base.name=smollm2-135m"), requests, run
    )


def check_against_transformers(
    url: str, requests: list[EngineRequest], run: Callable[..., Any]
) -> None:
    other = TransformersEngine(load_bundle(url))
    engine = VllmEngine(url, settings=SETTINGS)
    try:
        run(both_score(engine, other, [r for r in requests if r.task.kind == "yes_no"][:4]))
        run(both_generate(engine, other, requests[:4]))
    finally:
        engine.close()
        other.close()
