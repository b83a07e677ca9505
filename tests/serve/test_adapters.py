"""Folded adapters on one replica: made once, the least recently used goes, none in use."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from torch import Tensor

from fedkim_ray import telemetry
from fedkim_ray.bundle.fold import fold
from fedkim_ray.storage import Folder
from serve.adapters import AdapterCompiler, AdapterShelf, adapter_key
from serve.choosing import described_task
from serve.engine import EngineRequest


class Bench:
    """A shelf whose adapters are empty folders, and what it told the engine."""

    def __init__(self, home: Path, capacity: int) -> None:
        self.made: list[str] = []
        self.gone: list[int] = []
        self.shelf = AdapterShelf(home, capacity, self.compile_into, self.forget)

    def compile_into(self, folder: Path, _alpha_P: Tensor | None) -> None:
        """Stand in for the compiler."""
        folder.mkdir()
        self.made.append(folder.name)

    async def forget(self, number: int) -> None:
        """Stand in for the engine, which takes a while."""
        await asyncio.sleep(0.01)
        self.gone.append(number)

    async def ask(self, key: str, until: asyncio.Event | None = None) -> int:
        """Use an adapter, maybe until something happens, and return its number."""
        async with self.shelf.lend(key, None) as adapter:
            if until:
                await until.wait()
            assert adapter.folder.is_dir()
            return adapter.number


def counted() -> dict[str, float]:
    families = text_string_to_metric_families(telemetry.render().decode())
    samples = [s for f in families for s in f.samples]
    name = "fedkim_adapter_requests_total"
    return {s.labels["result"]: s.value for s in samples if s.name == name}


def test_the_least_recently_asked_for_goes(tmp_path: Path) -> None:
    bench, before = Bench(tmp_path, capacity=2), counted()

    async def ask() -> list[int]:
        return [await bench.ask(key) for key in ("a", "b", "a", "c", "a", "b")]

    assert asyncio.run(ask()) == [1, 2, 1, 3, 1, 4]  # b went for c, then came anew
    assert bench.gone == [2, 3]
    assert bench.shelf.keys == ["a", "b"]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["adapter-1", "adapter-4"]
    after = counted()
    assert after["hit"] - before.get("hit", 0) == 2
    assert after["miss"] - before.get("miss", 0) == 4


def test_one_that_is_in_use_stays_and_several_askers_wait_for_one_compilation(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, capacity=1)

    async def ask() -> None:
        over = asyncio.Event()
        long = asyncio.create_task(bench.ask("a", until=over))
        await asyncio.sleep(0)
        assert await asyncio.gather(*(bench.ask("b") for _ in range(3))) == [2, 2, 2]
        assert bench.shelf.keys == ["a"]  # a is in use still, so b went
        over.set()
        assert await long == 1

    asyncio.run(ask())
    assert sorted(bench.made) == ["adapter-1", "adapter-2"]
    assert bench.gone == [2]


def test_several_that_end_at_once_drop_each_adapter_once_and_none_that_was_lent_anew(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, capacity=2)

    async def ask() -> None:
        await bench.ask("x")
        await bench.ask("y")
        over = asyncio.Event()
        both = [asyncio.create_task(bench.ask(key, until=over)) for key in "cd"]
        while len(bench.made) < 4:
            await asyncio.sleep(0.001)
        over.set()
        await asyncio.sleep(0.005)  # c and d end, and x is being forgotten
        assert await bench.ask("y") in (2, 5)
        await asyncio.gather(*both)

    asyncio.run(ask())
    assert len(bench.shelf.keys) == 2
    assert len(set(bench.gone)) == len(bench.gone)


def test_no_more_than_twice_the_capacity_are_in_use_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, capacity=1)

    async def ask() -> None:
        over = asyncio.Event()
        asked = [asyncio.create_task(bench.ask(key, until=over)) for key in "abcd"]
        await asyncio.sleep(0.05)
        assert bench.shelf.keys == ["a", "b"]
        over.set()
        assert sorted(await asyncio.gather(*asked)) == [1, 2, 3, 4]

    asyncio.run(ask())
    assert len(bench.shelf.keys) == 1


def test_what_cannot_be_compiled_fails_for_all_who_wait_and_is_tried_anew(tmp_path: Path) -> None:
    bench, plain = Bench(tmp_path, capacity=1), Bench.compile_into
    fail = [True]

    def compile_into(folder: Path, alpha_P: Tensor | None) -> None:
        if fail[0]:
            raise OSError("the disk is full")
        plain(bench, folder, alpha_P)

    bench.shelf._compile_into = compile_into

    async def ask() -> None:
        answers = await asyncio.gather(bench.ask("a"), bench.ask("a"), return_exceptions=True)
        assert [type(a) for a in answers] == [OSError, OSError]
        assert bench.shelf.keys == []
        fail[0] = False
        assert await bench.ask("a") == 2

    asyncio.run(ask())


def test_an_asker_who_leaves_while_it_is_compiled_spoils_it_for_nobody(tmp_path: Path) -> None:
    bench = Bench(tmp_path, capacity=1)

    async def ask() -> None:
        first = asyncio.create_task(bench.ask("a"))
        await asyncio.sleep(0)
        second = asyncio.create_task(bench.ask("a"))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == 1
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(ask())
    assert bench.made == ["adapter-1"]


def test_a_key_is_shared_where_routing_is(requests: list[EngineRequest]) -> None:
    first, second = requests[:2]  # of one task, with the same modalities
    assert adapter_key(first.task, first.example) == adapter_key(second.task, second.example)
    with_words = replace(first.example, text="Cough for a week.")
    others = {adapter_key(r.task, r.example) for r in requests}
    assert adapter_key(first.task, with_words) not in others
    assert len(others) == len(requests) // 2
    asked_otherwise = first.task.model_copy(update={"question": "Is it so?"})
    assert adapter_key(asked_otherwise, first.example) == adapter_key(first.task, first.example)


def test_no_description_has_another_pairs_key(requests: list[EngineRequest]) -> None:
    image = next(r.example for r in requests if r.task.id == "lung_opacity")
    words = replace(image, arrays={}, text="Cough.")
    plain = described_task("Find it.", (), "Why?")
    crafted = described_task("Find it.\nimage", (), "Why?")
    keys = {adapter_key(t, e) for t in (plain, crafted) for e in (image, words)}
    assert len(keys) == 4
    assert adapter_key(plain, replace(words, text=None)) == adapter_key(plain, words)


def test_the_compiler_writes_what_fold_gives(bundle_url: str, tmp_path: Path) -> None:
    folded = fold(bundle_url, "mortality", ("lab", "vital", "input", "output"))
    compiler = AdapterCompiler(Folder.at(bundle_url))
    compiler.write(tmp_path / "one", folded.alpha_P)
    written = Folder.at(tmp_path / "one").read_tensors("adapter_model.safetensors")
    assert written.keys() == folded.weights.keys()
    assert all(torch.equal(written[name], w) for name, w in folded.weights.items())
    config: dict[str, Any] = Folder.at(tmp_path / "one").read_json("adapter_config.json")
    assert config == dict(folded.config)
    assert compiler.rank == 6  # three experts of rank 2
