"""Questions to answers, without HTTP."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from serve.engine import EngineRequest, Piece
from serve.errors import OverloadedError
from serve.gateway import Asked, Gateway
from serve.transformers_engine import TransformersEngine


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
    asked = [Asked(request=words, modalities=())] * 3
    with pytest.raises(OverloadedError):
        asyncio.run(Gateway(full).predict(asked))  # type: ignore[arg-type]
    assert (full.begun, full.ended) == (2, 2)
