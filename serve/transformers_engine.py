"""The embedded engine: transformers on CPU or GPU, one loop that owns the model.

Callers put questions into a waiting room; a worker thread takes what waits, whatever its tasks,
and runs it as the rows of one batch, each row with its own expert weights. Between two tokens the
loop scores what waits and lets new answers into the running batch, so nobody waits for another's
long answer.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Sequence

from fedkim_ray import telemetry
from fedkim_ray.bundle.read import LoadedBundle
from fedkim_ray.injection.inference import asking, score
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.metric_names import (
    BATCH_SIZE,
    BUNDLE_INFO,
    PREFILL_SECONDS,
    QUEUE_LENGTH,
    QUEUE_SECONDS,
    RUNNING,
)
from serve.answer_row import AnswerRow
from serve.budget import PositionBudget
from serve.encoding import plain_batch
from serve.engine import Description, EngineRequest, Piece, Scored
from serve.errors import NotReadyError
from serve.fast_steps import speed_up_steps
from serve.joining import Joining
from serve.prompting import PromptWriter
from serve.refusals import broken
from serve.running_batch import RunningBatch
from serve.waiting import ScoreJob, StreamJob, WaitingRoom


class TransformersEngine:
    """Answers from a loaded bundle."""

    def __init__(
        self,
        bundle: LoadedBundle,
        *,
        max_batch: int = 16,
        max_waiting: int = 256,
    ) -> None:
        """Start the loop.

        Args:
            bundle: The model; nobody else may run it from now on.
            max_batch: Rows in one forward pass, and answers that are generated at once.
            max_waiting: Requests that wait; further ones are refused.
        """
        self.facts = bundle.facts
        self.model: InjectedModel = bundle.model
        speed_up_steps(self.model)
        self.max_batch = max_batch
        self._budget = PositionBudget(self.model)
        self._room = WaitingRoom(max_waiting)
        self._running = RunningBatch(self.model)
        self._joining = Joining()
        self._writer = PromptWriter(self.facts, self.model)
        self.weights = self._writer.weights_by_task()
        self._thread = threading.Thread(target=self._loop, name="fedkim-engine", daemon=True)
        self._thread.start()

    # ---- the callers' side ------------------------------------------------------------------

    async def describe(self) -> Description:
        """Return what is served; see ``Engine``."""
        self.require_alive()
        return Description(facts=self.facts, expert_weights=self.weights)

    async def score(self, requests: Sequence[EngineRequest]) -> list[Scored]:
        """Return the label probabilities of yes/no questions, in order; see ``Engine``."""
        self._writer.require_own(requests)
        jobs = [ScoreJob(request) for request in requests]
        self._room.enter(*jobs)
        try:
            return list(await asyncio.gather(*(asyncio.wrap_future(job.answer) for job in jobs)))
        finally:
            for job in jobs:  # where one cannot be answered, nobody waits for the others
                job.answer.cancel()

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Piece, None]:
        """Yield an answer piece by piece; see ``Engine``."""
        self._writer.require_own([request])
        pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def emit(item: Piece | Exception) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, item)

        job = StreamJob(request, emit)
        self._room.enter(job)
        try:
            while True:
                item = await pieces.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish_reason:
                    return
        finally:
            job.cancelled.set()

    def require_alive(self) -> None:
        """Raise where the loop has ended.

        Raises:
            NotReadyError: it has.
        """
        if self._room.closed or not self._thread.is_alive():
            raise _ended()

    def close(self) -> None:
        """End the loop; questions that still wait get an error."""
        self._room.close()
        self._thread.join(timeout=30)

    # ---- the loop's side --------------------------------------------------------------------

    def _loop(self) -> None:
        """Answer until the engine is closed; however that ends, nobody waits for it in vain."""
        try:
            self._answer_all()
        except Exception as error:
            broken(error)
        finally:
            ended = _ended()
            self._room.refuse_all(ended)
            self._running.fail(ended)

    def _answer_all(self) -> None:
        telemetry.set_gauge(
            BUNDLE_INFO, 1, model=self.facts.name, bundle_version=self.facts.version
        )
        while not self._room.closed:
            if not self._running:
                self._rest()
            self._score_waiting()
            self._join_waiting()
            self._step()
            self._tell_load()

    def _rest(self) -> None:
        """Block until somebody waits; what is told meanwhile is that nobody does."""
        self._room.forget_those_gone()
        self._tell_load()
        self._room.wait()

    def _tell_load(self) -> None:
        telemetry.set_gauge(QUEUE_LENGTH, len(self._room))
        telemetry.set_gauge(RUNNING, len(self._running))

    def _score_waiting(self) -> None:
        fitting = []
        for job in self._room.take_scores(self.max_batch):
            if problem := self._budget.problem(job.request, num_new=1):
                job.answer.set_exception(problem)
            else:
                fitting.append(job)
        if fitting:
            _observe_waits(fitting)
            self._score(fitting)

    def _score(self, jobs: Sequence[ScoreJob]) -> None:
        """Answer a batch; where it fails, row by row, so that a bad row fails alone."""
        try:
            answers = self._scored([job.request for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].answer.set_exception(broken(error))
                return
            for job in jobs:
                self._score([job])
            return
        for job, answer in zip(jobs, answers, strict=True):
            job.answer.set_result(answer)

    def _scored(self, requests: Sequence[EngineRequest]) -> list[Scored]:
        telemetry.observe(BATCH_SIZE, len(requests), stage="score")
        with asking(self.model, [r.task for r in requests]):
            batch = plain_batch([r.example for r in requests])
            prompted = self._writer.prompt(requests)
            started = time.perf_counter()
            pairs = score(self.model, batch, prompted).tolist()
        telemetry.observe(PREFILL_SECONDS, time.perf_counter() - started)
        origins = self._writer.origins(prompted)
        return [
            Scored(
                probabilities=(no, yes),
                answer_words=self._writer.task_of(request).answer_words,
                origin=origin,
            )
            for request, (no, yes), origin in zip(requests, pairs, origins, strict=True)
        ]

    def _join_waiting(self) -> None:
        """Let those who wait for generated answers into the running batch, where it has room."""
        room = self.max_batch - len(self._running)
        if not self._joining.now(min(self._room.num_streams, room), len(self._running)):
            return
        fitting = []
        for job in self._room.take_streams(room):
            if problem := self._budget.problem(job.request, job.request.sampling.max_new_tokens):
                job.tell(problem)
            else:
                fitting.append(job)
        if fitting:
            _observe_waits(fitting)
            self._join(fitting)

    def _join(self, jobs: Sequence[StreamJob]) -> None:
        """Read prompts into the batch; where that fails, row by row: a bad row fails alone."""
        try:
            requests = [job.request for job in jobs]
            with asking(self.model, [r.task for r in requests]):
                prompted = self._writer.prompt(requests)
            origins = self._writer.origins(prompted)
            rows = [
                AnswerRow(job, self.model.tokenizer, origin)
                for job, origin in zip(jobs, origins, strict=True)
            ]
            self._running.join(rows, prompted)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].tell(broken(error))
                return
            for job in jobs:
                self._join([job])

    def _step(self) -> None:
        try:
            self._running.step()
        except Exception as error:
            self._running.fail(broken(error))


def _ended() -> NotReadyError:
    return NotReadyError(
        "The engine's loop has ended.", "It answers while it runs.", "Ask again later."
    )


def _observe_waits(jobs: Sequence[ScoreJob | StreamJob]) -> None:
    now = time.perf_counter()
    for job in jobs:
        telemetry.observe(QUEUE_SECONDS, now - job.arrived)
