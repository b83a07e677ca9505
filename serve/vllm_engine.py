"""The engine for load: vLLM with prompt embeddings and one folded adapter a (task, modalities).

Routing depends on text alone, so a question's expert weights are known before the model runs: the
bundle's experts are folded by them into an ordinary adapter (``adapters.py``), and vLLM batches
questions of different adapters by itself. Encoders, aligners, router and embeddings stay here;
the language model's layers are vLLM's (``vllm_model.py``).

Greedy answers equal the transformers engine's. Drawn ones come from the same distribution, but
vLLM has its own random numbers: the same seed draws other words.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from typing import Any

import torch
from torch import nn

from fedkim_ray import telemetry
from fedkim_ray.bundle.read import load_bundle, read_facts
from fedkim_ray.injection.base_model import working_dtype
from fedkim_ray.injection.inference import answer_token_ids, asking
from fedkim_ray.metric_names import BUNDLE_INFO, FIRST_TOKEN_SECONDS, RUNNING, TOKEN_SECONDS, TOKENS
from fedkim_ray.storage import Folder
from serve.adapters import adapter_key
from serve.answer_row import AnswerRow
from serve.budget import PositionBudget
from serve.choosing import task_label
from serve.engine import Description, EngineRequest, Origin, Piece, Scored
from serve.errors import NotReadyError, OverloadedError, ServingError
from serve.prompting import PromptWriter, end_tokens
from serve.refusals import broken
from serve.vllm_model import VllmModel, VllmPrompt
from serve.vllm_start import VllmSettings
from serve.waiting import StreamJob


class EmbeddingsOnly(nn.Module):
    """What the rest of the injected model needs of its language model."""

    def __init__(self, causal_lm: Any) -> None:
        super().__init__()
        self.embedding: nn.Module = causal_lm.get_input_embeddings()
        self.config = causal_lm.config

    def get_input_embeddings(self) -> nn.Module:
        """Return EMB_F."""
        return self.embedding


class VllmEngine:
    """Answers from a bundle; all calls come from one event loop."""

    def __init__(
        self,
        url: str,
        dtype: str | None = None,
        settings: VllmSettings | None = None,
        *,
        max_batch: int = 16,
        max_waiting: int = 256,
        threads: int = 1,
    ) -> None:
        """Load the bundle and start vLLM; it takes half a minute.

        Args:
            url: The bundle, any fsspec URL.
            dtype: As in ``load_bundle``.
            settings: What vLLM may take.
            max_batch: Answers under way at once.
            max_waiting: Requests that wait; further ones are refused.
            threads: vLLM's threads on CPU.

        Raises:
            StorageError: there is no whole bundle.
            EnvironmentProblemError: vLLM cannot run it.
        """
        settings = settings or VllmSettings()
        # Prompts are laid out on the CPU, in the precision that vLLM computes in.
        wanted = dtype or read_facts(Folder.at(url)).base.dtype
        dtype = working_dtype(wanted, torch.cuda.is_available())
        bundle = load_bundle(url, dtype, on_gpu=False)
        self.facts, self.model = bundle.facts, bundle.model
        self.model.llm = EmbeddingsOnly(self.model.causal_lm)  # the layers are vLLM's
        self._writer = PromptWriter(self.facts, self.model)
        self._budget = PositionBudget(self.model, settings.max_positions)
        self.weights = self._writer.weights_by_task()
        self._ends = end_tokens(self.model)
        self._most = max_batch + max_waiting
        self._num_inside = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fedkim-prompts")
        self._vllm = VllmModel(
            url,
            self.facts,
            settings,
            dtype=next(self.model.light.parameters()).dtype,
            positions=self._budget.positions,
            max_batch=max_batch,
            threads=threads,
        )
        telemetry.set_gauge(
            BUNDLE_INFO, 1, model=self.facts.name, bundle_version=self.facts.version
        )

    async def describe(self) -> Description:
        """Return what is served; see ``Engine``."""
        self.require_alive()
        return Description(facts=self.facts, expert_weights=self.weights)

    async def score(self, requests: Sequence[EngineRequest]) -> list[Scored]:
        """Return the label probabilities of yes/no questions, in order; see ``Engine``."""
        self._writer.require_own(requests)
        for request in requests:
            self._require_fitting(request, num_new=1)
        tasks = [self._writer.task_of(request) for request in requests]
        with self._inside(len(requests)):
            words = [answer_token_ids(self.model, task) for task in tasks]
            laid_out = await self._lay_out(requests)
            asked = [
                self._vllm.compare(prompt, pair)
                for (prompt, _), pair in zip(laid_out, words, strict=True)
            ]
            pairs = await asyncio.gather(*asked)
        return [
            Scored(probabilities=pair, answer_words=task.answer_words, origin=origin)
            for task, pair, (_, origin) in zip(tasks, pairs, laid_out, strict=True)
        ]

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Piece, None]:
        """Yield an answer piece by piece; see ``Engine``."""
        self._writer.require_own([request])
        self._require_fitting(request, request.sampling.max_new_tokens)
        pieces: list[Any] = []
        arrived = time.perf_counter()
        with self._inside(1):
            [(prompt, origin)] = await self._lay_out([request])
            row = AnswerRow(StreamJob(request, pieces.append), self.model.tokenizer, origin)
            stream = self._vllm.continue_from(prompt, request.sampling, self._ends)
            async with aclosing(_timed(stream, arrived, task_label(request.task))) as groups:
                async for tokens in groups:
                    self._take(row, tokens)
                    for piece in pieces:
                        yield piece
                    pieces.clear()
                    if not row.active:
                        return

    def require_alive(self) -> None:
        """Raise where vLLM has ended.

        Raises:
            NotReadyError: it has.
        """
        if not self._vllm.is_alive:
            raise NotReadyError("vLLM has ended.", "It answers while it runs.", "Ask again later.")

    def close(self) -> None:
        """End vLLM; answers under way break off."""
        self._vllm.close()
        self._thread.shutdown(wait=False)

    def _require_fitting(self, request: EngineRequest, num_new: int) -> None:
        if problem := self._budget.problem(request, num_new):
            raise problem

    @contextmanager
    def _inside(self, num: int) -> Iterator[None]:
        """Count requests from door to door, so that their number is bounded."""
        self.require_alive()
        if self._num_inside + num > self._most:
            raise OverloadedError(
                f"{self._num_inside} requests are here already.",
                f"At most {self._most} are answered or wait on one replica.",
                "Ask again after the time in Retry-After.",
            )
        self._num_inside += num
        telemetry.set_gauge(RUNNING, self._num_inside)
        try:
            yield
        except ServingError:
            raise
        except Exception as error:
            problem = broken(error)
            self.require_alive()  # where vLLM has ended, another replica can answer
            raise problem from None
        finally:
            self._num_inside -= num
            telemetry.set_gauge(RUNNING, self._num_inside)

    async def _lay_out(self, requests: Sequence[EngineRequest]) -> list[tuple[VllmPrompt, Origin]]:
        """Encode, route and embed in a thread, so that other answers go on meanwhile."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._lay_out_here, requests)

    @torch.inference_mode()
    def _lay_out_here(self, requests: Sequence[EngineRequest]) -> list[tuple[VllmPrompt, Origin]]:
        with asking(self.model, [r.task for r in requests]):
            prompted = self._writer.prompt(requests)
        alphas = prompted.alpha_BP
        prompts = [
            VllmPrompt(
                # Masked columns are neither attended nor counted: leaving them out is the same.
                embeds_LE=prompted.embeds_BLE[row][prompted.mask_BL[row].bool()].clone(),
                alpha_P=None if alphas is None else alphas[row].clone(),
                adapter_key=adapter_key(request.task, request.example),
            )
            for row, request in enumerate(requests)
        ]
        return list(zip(prompts, self._writer.origins(prompted), strict=True))

    def _take(self, row: AnswerRow, tokens: Sequence[int]) -> None:
        for token in tokens:
            if row.active:
                row.take(None if token in self._ends else token)
        telemetry.inc(TOKENS, sum(token not in self._ends for token in tokens))


async def _timed(
    stream: AsyncGenerator[list[int], None], arrived: float, label: str
) -> AsyncGenerator[list[int], None]:
    """Record how long tokens took; the first counts from the request's arrival."""
    before = None
    async with aclosing(stream) as groups:
        async for tokens in groups:
            now = time.perf_counter()
            if before is None:
                telemetry.observe(FIRST_TOKEN_SECONDS, now - arrived, task=label)
            else:
                telemetry.observe(TOKEN_SECONDS, (now - before) / max(1, len(tokens)))
            before = now
            yield tokens
