"""One running vLLM and the folded adapters beside it: embeddings and expert weights in, tokens out.

Shape letters: L positions, E embedding width, P experts.
"""

import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedkim_ray.bundle.layout import BundleFacts
from fedkim_ray.injection.base_model import find_base
from fedkim_ray.storage import Folder
from serve.adapters import AdapterCompiler, AdapterShelf
from serve.engine import Sampling
from serve.own_folder import OwnFolder
from serve.vllm_start import VllmSettings, start_vllm

WHOLE = "whole"
"""Key of the one adapter of a bundle that routes nothing."""


@dataclass(frozen=True, slots=True)
class VllmPrompt:
    """One question as the language model reads it."""

    embeds_LE: Tensor
    """Positions that carry something, on the CPU."""
    alpha_P: Tensor | None
    """Expert weights to fold; None where the bundle routes nothing."""
    adapter_key: str
    """See ``adapter_key``; no meaning where ``alpha_P`` is None."""


class VllmModel:
    """The language model's layers, run by vLLM; all calls come from one event loop."""

    def __init__(
        self,
        url: str,
        facts: BundleFacts,
        settings: VllmSettings,
        *,
        dtype: torch.dtype,
        positions: int,
        max_batch: int,
        threads: int,
    ) -> None:
        """Start vLLM; see ``start_vllm`` for arguments and errors.

        Args:
            url: The bundle, any fsspec URL.
            facts: Of the bundle.
            settings: What vLLM may take.
            dtype: Precision.
            positions: Positions of question and answer together.
            max_batch: Answers under way at once.
            threads: Threads on CPU.
        """
        has_adapter = facts.injection.adapter != "none"
        compiler = AdapterCompiler(Folder.at(url)) if has_adapter else None
        self.llm = start_vllm(
            find_base(facts.base.name, facts.base.revision),
            settings,
            dtype=str(dtype).removeprefix("torch."),
            rank=compiler.rank if compiler else None,
            layers=compiler.layers if compiler else (),
            positions=positions,
            max_batch=max_batch,
            threads=threads,
        )
        self._home = OwnFolder("fedkim-adapters-")
        home, capacity, forget = self._home.path, settings.max_adapters, self.llm.remove_lora
        self.shelf = AdapterShelf(home, capacity, compiler.write, forget) if compiler else None

    @property
    def is_alive(self) -> bool:
        """Whether vLLM's processes run."""
        return self.llm.is_running and not self.llm.errored

    def close(self) -> None:
        """End vLLM and drop the adapters."""
        self.llm.shutdown()
        self._home.close()

    async def compare(self, prompt: VllmPrompt, tokens: tuple[int, int]) -> tuple[float, float]:
        """Return two tokens' probabilities at the next position, compared with each other."""
        how = {"temperature": 0.0, "max_tokens": 1, "logprob_token_ids": list(tokens)}
        by_token: Any = {}
        async with aclosing(self._ask(prompt, how)) as outputs:
            async for output in outputs:
                by_token = output.logprobs[0]
        nats_2 = torch.tensor([by_token[token].logprob for token in tokens])
        first, second = nats_2.softmax(-1).tolist()
        return first, second

    async def continue_from(
        self, prompt: VllmPrompt, sampling: Sampling, ends: frozenset[int]
    ) -> AsyncGenerator[list[int], None]:
        """Yield new tokens as they come, an end last; closing the iterator cancels the rest."""
        how = {
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stop_token_ids": sorted(ends),
        }
        async with aclosing(self._ask(prompt, how)) as outputs:
            async for output in outputs:
                yield list(output.token_ids)

    async def _ask(self, prompt: VllmPrompt, how: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """Yield vLLM's outputs, each with what is new since the last."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            **how,
            detokenize=False,
            ignore_eos=True,  # ends are told by name
            output_kind=RequestOutputKind.DELTA,
        )
        async with self._adapter(prompt) as adapter:
            stream = self.llm.generate(
                {"prompt_embeds": prompt.embeds_LE},
                params,
                request_id=uuid.uuid4().hex,
                lora_request=adapter,
            )
            async with aclosing(stream) as outputs:
                async for output in outputs:
                    yield output.outputs[0]

    @asynccontextmanager
    async def _adapter(self, prompt: VllmPrompt) -> AsyncIterator[Any]:
        """Give vLLM's name of the prompt's adapter; None where the bundle has none."""
        if self.shelf is None:
            yield None
            return
        from vllm.lora.request import LoRARequest

        key = WHOLE if prompt.alpha_P is None else prompt.adapter_key
        async with self.shelf.lend(key, prompt.alpha_P) as adapter:
            yield LoRARequest(adapter.folder.name, adapter.number, str(adapter.folder))
