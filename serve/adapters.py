"""Folded adapters on one replica: compiled on demand, kept on disk, the least recently used go.

An engine with adapters of its own (vLLM) reads an ordinary LoRA from a folder. One pair of task
and modalities needs one such folder: the bundle's experts folded by the pair's weights.
"""

import asyncio
import hashlib
import json
import shutil
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fedkim_ray import telemetry
from fedkim_ray.bundle.fold import fold_weights
from fedkim_ray.bundle.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from fedkim_ray.data.loading import Example
from fedkim_ray.metric_names import ADAPTER_LOADS
from fedkim_ray.storage import Folder
from fedkim_ray.types import Task


def adapter_key(task: Task, example: Example) -> str:
    """Return a name of the adapter that answers an example: the same wherever routing is the same.

    Routing depends on the task's description and on the modalities that the example carries.
    """
    depends_on = json.dumps([task.description, example.carried_for(task)])
    return hashlib.sha256(depends_on.encode()).hexdigest()[:16]


@dataclass(slots=True)
class Adapter:
    """One adapter, as an engine loads it."""

    number: int
    """Unique for the engine's life, from 1."""
    folder: Path
    """With ``adapter_config.json`` and ``adapter_model.safetensors``."""
    made: "asyncio.Future[None]"
    """Compiles it: it belongs to nobody who asks, so one who leaves spoils it for none."""
    users: int = 0
    """Answers under way that need it."""


class AdapterCompiler:
    """A bundle's adapter in memory, ready to be folded."""

    def __init__(self, bundle: Folder) -> None:
        self.weights = bundle.read_tensors(ADAPTER_WEIGHTS)
        self.config = bundle.read_json(ADAPTER_CONFIG)

    @property
    def rank(self) -> int:
        """Rank of the whole: experts times the rank of one."""
        return int(self.config["r"])

    @property
    def layers(self) -> list[str]:
        """Last name parts of the adapted layers."""
        return sorted(self.config["target_modules"])

    def write(self, folder: Path, alpha_P: Tensor | None) -> None:
        """Write the adapter for one pair's expert weights; as it is where it has no experts."""
        weights, config = self.weights, self.config
        if alpha_P is not None:
            weights, config = fold_weights(weights, config, alpha_P)
        out = Folder.at(folder)
        out.write_tensors("adapter_model.safetensors", weights)
        out.write_json("adapter_config.json", config)


class AdapterShelf:
    """At most ``capacity`` adapters, and up to twice as many only while so many are in use at once.

    Who needs yet another one waits. All calls come from one event loop; adapters are compiled one
    after the other, in a thread of their own.
    """

    def __init__(
        self,
        home: Path,
        capacity: int,
        compile_into: Callable[[Path, Tensor | None], None],
        forget: Callable[[int], Awaitable[object]],
    ) -> None:
        """Begin empty.

        Args:
            home: Folder of this shelf's own.
            capacity: Adapters kept.
            compile_into: Writes an adapter into a folder, given expert weights.
            forget: Tells the engine that an adapter, by its number, is gone.
        """
        self.home = home
        self.capacity = capacity
        self._compile_into = compile_into
        self._forget = forget
        self._kept: OrderedDict[str, Adapter] = OrderedDict()
        """By key, the least recently asked for first."""
        self._num_made = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fedkim-adapters")
        self._dropped = asyncio.Event()

    @property
    def keys(self) -> list[str]:
        """What is kept, the least recently asked for first."""
        return list(self._kept)

    @asynccontextmanager
    async def lend(self, key: str, alpha_P: Tensor | None) -> AsyncIterator[Adapter]:
        """Give an adapter for the length of a block, compiled first where it is not kept.

        Args:
            key: See ``adapter_key``.
            alpha_P: Expert weights; None for an adapter without experts.
        """
        while key not in self._kept and len(self._kept) >= 2 * self.capacity:
            self._dropped.clear()
            await self._drop_surplus()  # of those who were cancelled while they cleared up
            await self._dropped.wait()
        telemetry.inc(ADAPTER_LOADS, result="hit" if key in self._kept else "miss")
        adapter = self._kept.get(key) or self._begin(key, alpha_P)
        self._kept.move_to_end(key)
        adapter.users += 1
        try:
            await asyncio.shield(adapter.made)
            yield adapter
        finally:
            adapter.users -= 1
            await self._drop_surplus()

    def _begin(self, key: str, alpha_P: Tensor | None) -> Adapter:
        self._num_made += 1
        folder = self.home / f"adapter-{self._num_made}"
        loop = asyncio.get_running_loop()
        made = loop.run_in_executor(self._thread, self._compile_into, folder, alpha_P)
        adapter = self._kept[key] = Adapter(self._num_made, folder, made)
        made.add_done_callback(lambda _: self._drop_failed(key, adapter))
        return adapter

    def _drop_failed(self, key: str, adapter: Adapter) -> None:
        """Keep no adapter that could not be compiled: the next who asks tries anew."""
        if adapter.made.cancelled() or adapter.made.exception():
            if self._kept.get(key) is adapter:
                del self._kept[key]
                self._dropped.set()
            self._thread.submit(shutil.rmtree, adapter.folder, ignore_errors=True)

    async def _drop_surplus(self) -> None:
        """Let the least recently used go, but none that an answer under way needs."""
        while len(self._kept) > self.capacity and (key := self._idle_key()):
            adapter = self._kept.pop(key)  # chosen anew after each wait: others lend meanwhile
            self._dropped.set()
            await self._forget(adapter.number)
            await asyncio.to_thread(shutil.rmtree, adapter.folder, ignore_errors=True)

    def _idle_key(self) -> str | None:
        """Return the least recently used adapter's key that nobody needs now."""
        return next((k for k, a in self._kept.items() if a.made.done() and not a.users), None)
