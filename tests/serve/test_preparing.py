"""Decoding in threads, for those who still wait."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from fedkim_ray.data.demo.tiny import SPEC
from fedkim_ray.data.loading import Example
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.data.tasks import task_table
from serve.engine import Features
from serve.inputs import RawInput
from serve.limits import Limits
from serve.preparing import AT_ONCE, LocalPreparer

TASK, MORTALITY = task_table()["slake_vqa"], task_table()["mortality"]


class Encoder:
    """Makes of each example a feature that names what it saw."""

    def encode(self, examples: Sequence[Example]) -> list[Features]:
        """Name the modalities whose arrays hold something."""
        return [
            Features(bundle_version=" ".join(m for m, a in e.arrays.items() if a.size), by_group={})
            for e in examples
        ]


def test_what_is_encoded_travels_without_its_arrays() -> None:
    async def spec() -> DataSpec:
        return SPEC

    raw = RawInput(series={"lab": {"lab_0": 1.5}, "vital": {"vital_0": 2.5}})
    preparer = LocalPreparer(spec, Limits(), Encoder())  # type: ignore[arg-type]
    (sent,), (plain,) = (
        asyncio.run(preparer.prepare([raw], MORTALITY, encoded)) for encoded in (True, False)
    )
    assert sent.features is not None
    assert sent.features.bundle_version == "lab vital"
    assert [p.example.carried_for(MORTALITY) for p in (sent, plain)] == [("lab", "vital")] * 2
    assert sum(array.size for array in sent.example.arrays.values()) == 0
    assert sent.spec is None
    assert (plain.features, plain.spec) == (None, SPEC)
    assert plain.example.arrays["lab"][0, 0] == 1.5


def test_so_many_are_prepared_at_once_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = 0

    async def spec() -> DataSpec:
        return SPEC

    async def fetch_for_ever(raws: Sequence[RawInput]) -> Sequence[RawInput]:
        nonlocal begun
        begun += 1
        await asyncio.sleep(3600)
        return raws

    async def ask() -> None:
        preparer = LocalPreparer(spec, Limits())
        monkeypatch.setattr(preparer.remote, "inline", fetch_for_ever)
        image = [RawInput(image="data:image/png;base64,")]
        asked = [asyncio.create_task(preparer.prepare(image, TASK)) for _ in range(AT_ONCE + 5)]
        await asyncio.wait(asked, timeout=0.1)
        assert begun == AT_ONCE
        for one in asked[:2]:  # who goes makes room
            one.cancel()
        await asyncio.wait(asked, timeout=0.1)
        assert begun == AT_ONCE + 2

    asyncio.run(ask())


def test_who_stops_waiting_stops_the_decoding_at_the_next_patient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[RawInput] = []
    begun, go_on = threading.Event(), threading.Event()

    def slow(raw: RawInput, *_: object) -> None:
        decoded.append(raw)
        begun.set()
        assert go_on.wait(10)

    async def spec() -> DataSpec:
        return SPEC

    async def leave() -> None:
        three = [RawInput(image="data:image/png;base64,")] * 3
        preparing = asyncio.create_task(LocalPreparer(spec, Limits()).prepare(three, TASK))
        await asyncio.to_thread(begun.wait, 10)
        preparing.cancel()
        await asyncio.wait([preparing])
        go_on.set()

    monkeypatch.setattr("serve.preparing.to_example", slow)
    asyncio.run(leave())  # returns once its threads have ended
    assert len(decoded) == 1
