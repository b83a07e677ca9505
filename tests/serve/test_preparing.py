"""Decoding in threads, for those who still wait."""

import asyncio
import threading

import pytest

from fedkim_ray.data.demo.tiny import SPEC
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.data.tasks import task_table
from serve.inputs import RawInput
from serve.limits import Limits
from serve.preparing import LocalPreparer

TASK = task_table()["slake_vqa"]


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
