"""The injected model: frozen LLM, M3OE adapters, router, aligners and encoders as one module.

    h = [bos, opening of the user's turn ; e ; p_t ; opening of the answer ; answer]

Sequences are padded on the left, so that the next token of every row is predicted at the last
column. The output head is computed at answer positions only.

Shape letters: B examples, L positions, E embedding width, P experts, A answer positions.

Source: FedKIM section 3.2. https://arxiv.org/abs/2408.10276
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedkim_ray.config import EncodersConfig, InjectionConfig
from fedkim_ray.data.loading import Batch, Example, ModalityRows
from fedkim_ray.data.modalities import DESCRIPTIONS
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.encoders.bundle import Encoded, LightModel
from fedkim_ray.injection.attention import FUSED, choose_attention
from fedkim_ray.injection.base_model import BaseModel
from fedkim_ray.injection.logits import behind_head
from fedkim_ray.injection.m3oe import ExpertGate
from fedkim_ray.injection.parts import adapt, embedding_size, make_aligners, make_router
from fedkim_ray.injection.prompt import PromptFormat, prompt_text
from fedkim_ray.injection.router import EmbeddedTexts
from fedkim_ray.types import Modality, Task, TaskId

RouteKey = tuple[TaskId, tuple[Modality, ...]]
"""A task and the modalities that an example of it carries: what routing depends on."""


@dataclass(frozen=True, slots=True)
class Prompted:
    """A batch as the LLM reads it."""

    embeds_BLE: Tensor
    mask_BL: Tensor
    """1 at real positions, 0 at padding and at tokens that carry nothing."""
    alpha_BP: Tensor | None
    """Expert weights of each example, float32; None without M3OE."""
    answer_rows_A: Tensor
    answer_columns_A: Tensor
    """Positions whose next token is an answer token."""
    answer_ids_A: Tensor

    @property
    def position_ids(self) -> Tensor:
        """Positions of the embedded columns, counting real tokens only, (B, L)."""
        positions = (self.mask_BL.cumsum(-1) - 1).clamp(min=0)
        return positions[:, -self.embeds_BLE.shape[1] :]

    def from_column(self, first: int) -> "Prompted":
        """Return the columns from ``first`` on, under the whole mask: the rest is cached."""
        return replace(self, embeds_BLE=self.embeds_BLE[:, first:])


class InjectedModel(nn.Module):
    """Everything that injection trains and serving runs."""

    def __init__(
        self,
        base: BaseModel,
        injection: InjectionConfig,
        encoders: EncodersConfig,
        spec: DataSpec,
        tasks: Mapping[TaskId, Task],
    ) -> None:
        super().__init__()
        self.tokenizer = base.tokenizer
        self.format = PromptFormat.of(base.tokenizer)
        self.tasks = dict(tasks)
        self.light = LightModel(encoders, spec, tasks=())
        width, size = embedding_size(base.llm)
        self.aligners = make_aligners(self.light, injection, width, size)
        routed = injection.adapter == "m3oe"
        m3oe = injection.m3oe
        self.gate = ExpertGate(m3oe.num_experts, m3oe.rank) if routed else None
        self.router = make_router(m3oe, width) if routed else None
        self._is_fused = base.llm.config._attn_implementation == FUSED
        self.llm = adapt(base.llm, injection, self.gate)
        place = (
            base.llm.get_input_embeddings().weight.device
        )  # a packed base lies on its GPU already
        for part in (self.light, self.aligners, self.router):
            if part is not None:
                part.to(place)
        self._described: dict[str, Tensor] = {}
        self._routed: dict[tuple[str, tuple[Modality, ...]], Tensor] = {}
        # Embedded before any sharding: later, every rank would have to embed in the same order.
        for text in (*(t.description for t in tasks.values()), *DESCRIPTIONS.values()):
            self._describe(text)

    # ---- naming -----------------------------------------------------------------------------

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters that injection trains, by name, in a fixed order."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.light.parameters()).device

    # ---- routing ----------------------------------------------------------------------------

    def route_key(self, example: Example) -> RouteKey:
        """Return what the routing of ``example`` depends on."""
        return example.task, example.carried_for(self.tasks[example.task])

    def route(self, keys: Sequence[RouteKey]) -> Tensor:
        """Return expert weights (len(keys), P), float32.

        A task that the model does not know routes by its description once it is in ``tasks``.
        While nothing trains, a pair is routed once: its weights depend on nothing else.
        """
        if self.training or torch.is_grad_enabled():
            return self._route(keys)
        texts = [(self.tasks[t].description, ms) for t, ms in keys]
        for key, text in zip(keys, texts, strict=True):
            if text not in self._routed:
                self._routed[text] = self._route([key])[0]
        return torch.stack([self._routed[text].to(self.device) for text in texts])

    def forget(self, description: str) -> None:
        """Drop what is kept of a task's description."""
        self._described.pop(description, None)
        for text in [t for t in self._routed if t[0] == description]:
            del self._routed[text]

    def forget_routes(self) -> None:
        """Route every pair anew: call it after a change of the router."""
        self._routed.clear()

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; kept expert weights are then out of date."""
        self.forget_routes()
        return super().train(mode)

    def _route(self, keys: Sequence[RouteKey]) -> Tensor:
        assert self.router is not None
        task = [self._describe(self.tasks[t].description) for t, _ in keys]
        modality = [torch.cat([self._describe(DESCRIPTIONS[m]) for m in ms]) for _, ms in keys]
        alpha: Tensor = self.router(EmbeddedTexts.pad(task), EmbeddedTexts.pad(modality))
        return alpha

    def _describe(self, text: str) -> Tensor:
        """Return EMB_F(text), (K, E), in the parameters' present dtype."""
        if text not in self._described:
            ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            self._described[text] = self._embed(ids.to(self.device))[0].detach()
        kept = self._described[text]
        reference = next(self.light.parameters())
        return kept.to(reference.device, reference.dtype)

    def _embed(self, ids: Tensor) -> Tensor:
        embedding = cast(nn.Module, self.llm.get_input_embeddings())  # type: ignore[operator]
        embedded: Tensor = embedding(ids)
        return embedded

    def _alpha_of(self, batch: Batch) -> Tensor | None:
        if self.router is None:
            return None
        keys = [self.route_key(e) for e in batch.examples]
        known = list(dict.fromkeys(keys))
        return self.route(known)[[known.index(k) for k in keys]]

    # ---- assembling -------------------------------------------------------------------------

    def prompt(
        self,
        batch: Batch,
        answers: Sequence[str] | None = None,
        aligned: Mapping[str, Encoded] | None = None,
    ) -> Prompted:
        """Lay out a batch: modality tokens in their fixed order, the prompt, and the answer.

        Args:
            batch: Examples; absent modalities are left out of their rows.
            answers: What each row should answer; the prompt alone where None.
            aligned: The batch's modality tokens by group, where another process has made them.
        """
        if aligned is None:
            aligned = self.aligned(batch)
        layouts = [
            self._layout(row, example, aligned, answers[row] if answers else None)
            for row, example in enumerate(batch.examples)
        ]
        length = max(len(ids) for ids, _ in layouts)
        ids_BL = torch.zeros(batch.size, length, dtype=torch.long)
        mask_BL = torch.zeros(batch.size, length, dtype=torch.long)
        rows: list[int] = []
        columns: list[int] = []
        targets: list[int] = []
        for row, (ids, num_answer) in enumerate(layouts):
            start = length - len(ids)
            ids_BL[row, start:] = torch.tensor(ids)
            mask_BL[row, start:] = 1
            rows += [row] * num_answer
            columns += range(length - num_answer - 1, length - 1)
            targets += ids[len(ids) - num_answer :]
        device = self.device
        embeds_BLE = self._embed(ids_BL.to(device))
        mask_BL = mask_BL.to(device)
        embeds_BLE, mask_BL = self._place(embeds_BLE, mask_BL, layouts, aligned)
        return Prompted(
            embeds_BLE,
            mask_BL,
            self._alpha_of(batch),
            torch.tensor(rows, dtype=torch.long, device=device),
            torch.tensor(columns, dtype=torch.long, device=device),
            torch.tensor(targets, dtype=torch.long, device=device),
        )

    def aligned(self, batch: Batch, complete: bool = False) -> dict[str, Encoded]:
        """Encode and align every modality group of the batch; see ``LightModel.encode``."""
        cast_batch = in_dtype(batch, next(self.light.parameters()).dtype)
        return {
            group: Encoded(e.rows, *self.aligners[group](e.tokens, e.carries))
            for group, e in self.light.encode(cast_batch, complete).items()
        }

    def _layout(
        self, row: int, example: Example, aligned: Mapping[str, Encoded], answer: str | None
    ) -> tuple[list[int], int]:
        """Return the row's token ids, 0 where modality tokens go, and its answer's length."""
        num_features = sum(
            e.tokens.shape[1] for e in aligned.values() if bool((e.rows == row).any())
        )
        opening = self._ids(self.format.user_open)
        prompt = prompt_text(example.question, example.text) + self.format.answer_open
        tail = self._ids(answer + self.format.answer_close) if answer is not None else []
        return [*opening, *[0] * num_features, *self._ids(prompt), *tail], len(tail)

    def _place(
        self,
        embeds_BLE: Tensor,
        mask_BL: Tensor,
        layouts: Sequence[tuple[list[int], int]],
        aligned: Mapping[str, Encoded],
    ) -> tuple[Tensor, Tensor]:
        """Write modality tokens into their slots, in the fixed order of the groups."""
        length = embeds_BLE.shape[1]
        opening = len(self._ids(self.format.user_open))
        slot = torch.tensor([length - len(ids) + opening for ids, _ in layouts]).to(mask_BL.device)
        for e in aligned.values():
            rows, width = e.rows, e.tokens.shape[1]
            columns = slot[rows][:, None] + torch.arange(width, device=slot.device)
            place = (rows[:, None].expand_as(columns), columns)
            embeds_BLE = embeds_BLE.index_put(place, e.tokens.to(embeds_BLE.dtype))
            mask_BL = mask_BL.index_put(place, e.carries.to(mask_BL.dtype))
            slot = slot.index_add(0, rows, torch.full_like(rows, width))
        return embeds_BLE, mask_BL

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def extend(self, prompted: Prompted, tokens_B: Tensor) -> Prompted:
        """Return the sequence with one more token a row."""
        return replace(
            prompted,
            embeds_BLE=torch.cat([prompted.embeds_BLE, self._embed(tokens_B[:, None])], 1),
            mask_BL=torch.cat([prompted.mask_BL, torch.ones_like(tokens_B)[:, None]], 1),
        )

    # ---- running ----------------------------------------------------------------------------

    def hold(self, alpha_BP: Tensor | None) -> AbstractContextManager[None]:
        """Hold a batch's expert weights; nothing to hold without M3OE."""
        if self.gate is None or alpha_BP is None:
            return nullcontext()
        return self.gate.hold(alpha_BP)

    def hidden(self, prompted: Prompted, **cache: Any) -> Any:
        """Run the LLM without its head; the gate must be held."""
        llm = self.causal_lm
        if self._is_fused:
            is_trained = self.training and torch.is_grad_enabled()
            choose_attention(llm, prompted.embeds_BLE, is_trained)
        decoder = getattr(llm, llm.base_model_prefix)
        return decoder(
            inputs_embeds=prompted.embeds_BLE,
            attention_mask=prompted.mask_BL,
            position_ids=prompted.position_ids,
            **cache,
        )

    def head(self, hidden_NE: Tensor, rows_N: Tensor) -> Tensor:
        """Return the base's logits (N, vocabulary) at gathered positions of examples ``rows_N``."""
        head = cast(nn.Module, self.causal_lm.get_output_embeddings())
        with self.gate.at_rows(rows_N) if self.gate else nullcontext():
            return behind_head(self.causal_lm, head(hidden_NE))

    @property
    def causal_lm(self) -> Any:
        """The transformers model itself, with adapted layers where there are any."""
        llm = cast(Any, self.llm)
        return llm.get_base_model() if hasattr(llm, "get_base_model") else llm

    def answer_logits(self, prompted: Prompted) -> Tensor:
        """Return the logits that predict the answer tokens, (A, vocabulary)."""
        hidden_BLE = self.hidden(prompted, use_cache=False).last_hidden_state
        rows = prompted.answer_rows_A
        return self.head(hidden_BLE[rows, prompted.answer_columns_A], rows)

    def loss(self, prompted: Prompted) -> tuple[Tensor, Tensor]:
        """Next-token cross-entropy on the answer tokens only; the gate must be held.

        Returns:
            The mean over examples of the mean over an example's answer tokens, with its graph,
            and each example's own mean, (B,), detached.
        """
        rows, logits_AV = prompted.answer_rows_A, self.answer_logits(prompted)
        nats_A = F.cross_entropy(logits_AV.float(), prompted.answer_ids_A, reduction="none")
        size = prompted.mask_BL.shape[0]
        count_B = torch.bincount(rows, minlength=size)
        nats_B = torch.zeros(size, device=nats_A.device).index_add(0, rows, nats_A) / count_B
        return nats_B.mean(), nats_B.detach()

    def forward(self, batch: Batch, want_logits: bool = False) -> tuple[Tensor, Tensor] | Tensor:
        """One training pass: the mean loss, and each example's loss (B,), detached.

        With ``want_logits`` the logits that predict the answers, (A, vocabulary), instead.

        The gate stays held, because backward may recompute activations: call ``release`` after
        backward. Modality groups that the batch lacks run on a blank row, to no effect, so that
        all workers run the same modules in the same order.
        """
        answers = [e.answer for e in batch.examples]
        prompted = self.prompt(batch, answers, self.aligned(batch, complete=True))
        if self.gate is not None and prompted.alpha_BP is not None:
            self.gate.set(prompted.alpha_BP)
        return self.answer_logits(prompted) if want_logits else self.loss(prompted)

    def release(self) -> None:
        """Let go of the last batch's expert weights."""
        if self.gate is not None:
            self.gate.clear()


def in_dtype(batch: Batch, dtype: torch.dtype) -> Batch:
    """Return a batch with its values in another floating-point type."""
    inputs = {
        m: ModalityRows(r.rows, r.values.to(dtype), r.observed) for m, r in batch.inputs.items()
    }
    return Batch(examples=batch.examples, inputs=inputs)
