"""One batch of answers that are being generated, advanced token by token."""

from collections.abc import Sequence
from typing import Literal

from fedkim_ray import telemetry
from fedkim_ray.data.loading import Batch
from fedkim_ray.injection.inference import decode
from fedkim_ray.injection.model import InjectedModel, Prompted
from fedkim_ray.metric_names import TOKENS
from serve.detokenizer import Detokenizer
from serve.engine import Origin, Piece
from serve.waiting import StreamJob


class DecodingBatch:
    """Rows that share forward passes; each ends by itself, by its limit, or by its consumer."""

    def __init__(
        self,
        model: InjectedModel,
        batch: Batch,
        prompted: Prompted,
        jobs: Sequence[StreamJob],
        origins: Sequence[Origin],
    ) -> None:
        """Prepare the first step.

        Args:
            model: The model; other batches may run in it between two steps.
            batch: The rows.
            prompted: Their layout.
            jobs: For each row its limits and consumer, all of one temperature.
            origins: For each row what its answer comes from.
        """
        self._rows = [
            _Row(job, Detokenizer(model.tokenizer), origin)
            for job, origin in zip(jobs, origins, strict=True)
        ]
        most = max(job.request.max_new_tokens for job in jobs)
        self._steps = decode(model, batch, most, jobs[0].request.temperature, prompted)

    @property
    def active(self) -> bool:
        """Whether anybody waits for a further token."""
        return any(row.active for row in self._rows)

    def step(self) -> None:
        """Generate one token for every row and hand the words out."""
        active = [row.active for row in self._rows]
        tokens = next(self._steps)
        for row, was_active, token in zip(self._rows, active, tokens, strict=True):
            if was_active:
                row.take(token)
        telemetry.inc(TOKENS, sum(t is not None for t, a in zip(tokens, active, strict=True) if a))

    def fail(self, error: Exception) -> None:
        """End all answers that are under way with an error."""
        for row in self._rows:
            if row.active:
                row.done = True
                row.job.tell(error)


class _Row:
    """One answer of the batch."""

    def __init__(self, job: StreamJob, words: Detokenizer, origin: Origin) -> None:
        self.job = job
        self.words = words
        self.origin = origin
        self.done = False

    @property
    def active(self) -> bool:
        return not self.done and not self.job.cancelled.is_set()

    def take(self, token: int | None) -> None:
        """Hand the token's text on; None ends the answer."""
        if token is None:
            self._emit(self.words.end(), "stop")
            return
        text = self.words.add(token)
        if len(self.words.ids) >= self.job.request.max_new_tokens:
            self._emit(text + self.words.end(), "length")
        else:
            self._emit(text, None)

    def _emit(self, text: str, finish_reason: Literal["stop", "length"] | None) -> None:
        self.done = finish_reason is not None
        piece = Piece(
            text=text,
            num_tokens=len(self.words.ids),
            finish_reason=finish_reason,
            origin=self.origin,
        )
        self.job.tell(piece)
