"""The answers that are being generated: rows that share forward passes, whatever their tasks.

Each row has its own expert weights, sampling and end. Rows join and leave between two steps, so
nobody waits for another's long answer, and a row's numbers do not depend on who shares its batch.

Shape letters: B rows, L columns, E embedding width, P experts, V vocabulary.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedkim_ray import telemetry
from fedkim_ray.injection.model import InjectedModel, Prompted
from fedkim_ray.metric_names import (
    BATCH_SIZE,
    FIRST_TOKEN_SECONDS,
    PREFILL_SECONDS,
    TOKEN_SECONDS,
    TOKENS,
)
from serve.answer_row import AnswerRow
from serve.choosing import task_label
from serve.kv_cache import join_caches, keep_rows, new_cache, pad_front
from serve.prompting import end_tokens
from serve.refusals import broken
from serve.sampling import choose_tokens


class RunningBatch:
    """Rows under way in one model; one thread owns it."""

    def __init__(self, model: InjectedModel) -> None:
        self.model = model
        self.rows: list[AnswerRow] = []
        self._cache = new_cache()
        self._read: Prompted | None = None
        """Masks and expert weights of what the rows have read; None without rows."""
        self._newest_B: Tensor = torch.empty(0, dtype=torch.long)
        """Each row's last token, which the next step reads."""
        self._ends = end_tokens(model)

    def __len__(self) -> int:
        return len(self.rows)

    @torch.inference_mode()
    def join(self, rows: Sequence[AnswerRow], prompted: Prompted) -> None:
        """Read the prompts of new rows, let them in, and give each its first token.

        Words are handed out last: where anything before fails, nobody has heard of these rows yet,
        and those under way are as they were.

        Args:
            rows: New rows.
            prompted: Their layout, in the same order.
        """
        cache, started = new_cache(), time.perf_counter()
        with self.model.hold(prompted.alpha_BP):
            out = self.model.hidden(prompted, past_key_values=cache, use_cache=True)
            logits_BV = self._logits(out)
        telemetry.observe(PREFILL_SECONDS, time.perf_counter() - started)
        telemetry.observe(BATCH_SIZE, len(rows), stage="prefill")
        chosen = choose_tokens(logits_BV, [row.draw for row in rows])
        if self._read is None:
            self._cache, self._read, self._newest_B = cache, _unembedded(prompted), chosen[0]
        else:
            read = _below(self._read, prompted)
            newest_B = torch.cat([self._newest_B, chosen[0]])
            join_caches(self._cache, cache)
            self._read, self._newest_B = read, newest_B
        self.rows += rows
        self._hand_out(rows, *chosen)
        for row in rows:
            seconds = time.perf_counter() - row.job.arrived
            telemetry.observe(FIRST_TOKEN_SECONDS, seconds, task=task_label(row.job.request.task))

    @torch.inference_mode()
    def step(self) -> None:
        """Generate one token for every row, hand the words out, let finished rows go."""
        self._let_go()  # of those whose consumer went away meanwhile
        if self._read is None:
            return
        started = time.perf_counter()
        extended = self.model.extend(self._read, self._newest_B)
        with self.model.hold(extended.alpha_BP):
            out = self.model.hidden(extended, past_key_values=self._cache, use_cache=True)
            logits_BV = self._logits(out)
        self._read = _unembedded(extended)
        telemetry.observe(TOKEN_SECONDS, time.perf_counter() - started)
        telemetry.observe(BATCH_SIZE, len(self.rows), stage="decode")
        self._newest_B, failures = choose_tokens(logits_BV, [row.draw for row in self.rows])
        self._hand_out(self.rows, self._newest_B, failures)
        self._let_go()

    def fail(self, error: Exception) -> None:
        """End all answers that are under way with an error."""
        for row in self.rows:
            row.fail(error)
        self._let_go()

    def _logits(self, out: object) -> Tensor:
        hidden_BE: Tensor = out.last_hidden_state[:, -1]  # type: ignore[attr-defined]
        rows = torch.arange(hidden_BE.shape[0], device=hidden_BE.device)
        return self.model.head(hidden_BE, rows).float()

    def _hand_out(
        self, rows: Sequence[AnswerRow], tokens_B: Tensor, failures: Mapping[int, Exception]
    ) -> None:
        """Tell each row the words of its token.

        A row that this fails for, or whose token could not be chosen, ends with an error, and the
        others go on.
        """
        tokens = tokens_B.tolist()
        for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            try:
                if place in failures:
                    raise failures[place]
                row.take(None if token in self._ends else token)
            except Exception as error:
                row.fail(broken(error))
        telemetry.inc(TOKENS, sum(token not in self._ends for token in tokens))

    def _let_go(self) -> None:
        """Drop the rows that have ended, and the columns that only they had."""
        kept = [i for i, row in enumerate(self.rows) if row.active]
        if len(kept) == len(self.rows) or self._read is None:
            return
        self.rows = [self.rows[i] for i in kept]
        if not kept:
            self._cache, self._read = new_cache(), None
            return
        mask_BL = self._read.mask_BL[kept]
        first = int(mask_BL.any(0).int().argmax())
        keep_rows(self._cache, kept, first)
        self._read = _select(self._read, kept, first)
        self._newest_B = self._newest_B[kept]


def _unembedded(read: Prompted) -> Prompted:
    """Return a layout without its embeddings: the cache holds what became of them."""
    return replace(read, embeds_BLE=read.embeds_BLE[:, :0])


def _below(upper: Prompted, lower: Prompted) -> Prompted:
    """Return the layout of both sides' rows, without embeddings."""
    length = max(upper.mask_BL.shape[1], lower.mask_BL.shape[1])
    masks = [pad_front(p.mask_BL, length - p.mask_BL.shape[1], -1) for p in (upper, lower)]
    alphas = [p.alpha_BP for p in (upper, lower) if p.alpha_BP is not None]
    return replace(
        upper,
        embeds_BLE=torch.cat([p.embeds_BLE[:, :0] for p in (upper, lower)]),
        mask_BL=torch.cat(masks),
        alpha_BP=torch.cat(alphas) if alphas else None,
    )


def _select(read: Prompted, rows: Sequence[int], first_column: int) -> Prompted:
    return replace(
        read,
        embeds_BLE=read.embeds_BLE[rows],
        mask_BL=read.mask_BL[rows, first_column:],
        alpha_BP=None if read.alpha_BP is None else read.alpha_BP[rows],
    )
