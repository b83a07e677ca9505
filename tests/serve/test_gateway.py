"""Questions to answers, without HTTP."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import pytest

from fedkim_ray.data.schema import DataSpec
from serve.encoding import FeatureEncoder
from serve.engine import EngineRequest, Piece, Scored
from serve.errors import OverloadedError, StaleInputsError
from serve.gateway import Asked, Gateway
from serve.inputs import RawInput
from serve.limits import Limits
from serve.preparing import LocalPreparer
from serve.schemas import PredictRequest
from serve.transformers_engine import TransformersEngine

LAB = PredictRequest.model_validate({"inputs": [{"series": {"lab": {"lab_0": 1.5}}}]})


class FullForTheLast:
    """An engine that has room for two patients, and answers none of them."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.describe = engine.describe
        self.begun = self.ended = 0

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Piece, None]:
        """Refuse the third; see ``Engine``."""
        if self.begun == 2:
            raise OverloadedError("Full.", "Room.", "Wait.")
        self.begun += 1
        try:
            await asyncio.sleep(60)
            raise AssertionError("nobody waits so long")
            yield
        finally:
            self.ended += 1


def test_where_one_patient_is_refused_no_other_is_answered(
    engine: TransformersEngine, requests: list[EngineRequest]
) -> None:
    full = FullForTheLast(engine)
    words = next(r for r in requests if r.task.kind == "generate")
    asked = [Asked(request=words, raw=RawInput(), modalities=())] * 3
    with pytest.raises(OverloadedError):
        asyncio.run(Gateway(full).predict(asked))  # type: ignore[arg-type]
    assert (full.begun, full.ended) == (2, 2)


class NextInputs(LocalPreparer):
    """Decodes and encodes for the next bundle, which the engine is not of yet."""

    def __init__(self, bundle_url: str, spec: DataSpec) -> None:
        async def own_spec() -> DataSpec:
            return spec

        encoder = FeatureEncoder.from_bundle(bundle_url)
        encoder.facts = encoder.facts.model_copy(update={"version": "next"})
        super().__init__(own_spec, Limits(), encoder)


def scored(gateway: Gateway, task: str = "mortality") -> dict[str, float]:
    async def ask() -> dict[str, float]:
        asked = await gateway.understand_inputs(await gateway.find_task(task, LAB), LAB)
        probabilities = (await gateway.predict(asked)).data[0].label_probabilities
        assert probabilities is not None
        return probabilities

    return asyncio.run(ask())


def test_while_the_next_bundle_rolls_in_the_engine_encodes_by_itself(
    engine: TransformersEngine, bundle_url: str
) -> None:
    inputs = NextInputs(bundle_url, engine.facts.spec)
    assert scored(Gateway(engine, preparer=inputs)) == pytest.approx(scored(Gateway(engine)))


def test_inputs_laid_out_in_another_order_are_answered_by_nobody(
    engine: TransformersEngine, bundle_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = engine.facts.spec
    lab = spec.series["lab"]
    turned = lab.model_copy(update={"features": lab.features[::-1]})
    inputs = NextInputs(bundle_url, spec.model_copy(update={"series": {"lab": turned}}))
    monkeypatch.setattr("serve.gateway.PAUSES_S", (0.0, 0.0))
    with pytest.raises(StaleInputsError, match="Retry-After") as caught:
        scored(Gateway(engine, preparer=inputs))
    assert (caught.value.status, caught.value.retry_after_s) == (503, 5)


class OtherWords:
    """An engine of a bundle that has other answer words than the one described."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine = engine
        self.describe = engine.describe
        self.generate = engine.generate

    async def score(self, requests: Sequence[EngineRequest]) -> list[Scored]:
        """Answer in its own words; see ``Engine``."""
        answers = await self.engine.score(requests)
        return [replace(answer, answer_words=("Nein", "Ja")) for answer in answers]


def test_probabilities_bear_the_words_of_the_bundle_that_answered(
    engine: TransformersEngine,
) -> None:
    assert scored(Gateway(engine)).keys() == {"No", "Yes"}
    assert scored(Gateway(OtherWords(engine))).keys() == {"Nein", "Ja"}
