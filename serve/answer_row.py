"""One answer under way: its words so far, and what ends it."""

from typing import Any, Literal

from serve.detokenizer import Detokenizer, SpaceHeld
from serve.engine import Origin, Piece
from serve.sampling import Draw
from serve.stop_words import StopWords
from serve.waiting import StreamJob


class AnswerRow:
    """One row of a running batch; ends by itself, by a limit, or with its consumer."""

    def __init__(self, job: StreamJob, tokenizer: Any, origin: Origin) -> None:
        self.job = job
        self.origin = origin
        self.draw = Draw(job.request.sampling)
        self._words = Detokenizer(tokenizer)
        self._stop = StopWords(job.request.sampling.stop)
        self._space = SpaceHeld()  # behind the stop texts, which may be of white space
        self._kept = ""
        """Words that nobody wants before the end."""
        self._done = False

    @property
    def active(self) -> bool:
        """Whether somebody waits for a further token."""
        return not self._done and not self.job.cancelled.is_set()

    def take(self, token: int | None) -> None:
        """Hand the token's text on; None is the model's own end of the answer."""
        if token is None:
            self._end(self._words.end(), "stop")
            return
        text = self._stop.add(self._words.add(token))
        if self._stop.found:
            self._emit(text, "stop")
        elif len(self._words.ids) >= self.job.request.sampling.max_new_tokens:
            self._end(self._words.end(), "length", text)
        else:
            self._emit(text, None)

    def fail(self, error: Exception) -> None:
        """End the answer with an error, where anybody still waits for it."""
        if self.active:
            self._done = True
            self.job.tell(error)

    def _end(self, rest: str, reason: Literal["stop", "length"], before: str = "") -> None:
        text = before + self._stop.add(rest)
        found = self._stop.found
        self._emit(text + ("" if found else self._stop.end()), "stop" if found else reason)

    def _emit(self, text: str, finish_reason: Literal["stop", "length"] | None) -> None:
        self._done = finish_reason is not None
        text = self._space.add(text)
        if not self._done and not self.job.request.in_pieces:
            self._kept += text
            return
        piece = Piece(
            text=self._kept + text,
            num_tokens=len(self._words.ids),
            finish_reason=finish_reason,
            origin=self.origin,
        )
        self.job.tell(piece)
