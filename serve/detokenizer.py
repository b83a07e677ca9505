"""Words out of a stream of tokens, without showing half a character.

A token may hold only a part of a character's bytes, and how it reads may depend on the token
before it. So the tail of the answer is decoded together with the tokens before it, and what does
not read whole yet is held back.
"""

from collections.abc import Sequence
from typing import Any

BROKEN = "\ufffd"
"""What a decoder writes for bytes that make no character yet."""


class Detokenizer:
    """The text of one growing answer.

    All pieces joined equal the whole decoded at once, but for white space at its start.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self._context = 0
        """First token that is decoded again as context."""
        self._shown = 0
        """Tokens whose text was handed out."""
        self._started = False

    def add(self, token: int) -> str:
        """Take one token and return the text that it completes, often none."""
        self.ids.append(token)
        before = self._decode(self.ids[self._context : self._shown])
        after = self._decode(self.ids[self._context :])
        if after.endswith(BROKEN) or len(after) <= len(before):
            return ""
        self._context, self._shown = self._shown, len(self.ids)
        return self._begin(after[len(before) :])

    def end(self) -> str:
        """Return what is left, where the answer ends within a character."""
        before = self._decode(self.ids[self._context : self._shown])
        after = self._decode(self.ids[self._context :])
        self._context = self._shown = len(self.ids)
        return self._begin(after[len(before) :])

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids)) if ids else ""

    def _begin(self, text: str) -> str:
        """Drop white space at the answer's start."""
        if not self._started:
            text = text.lstrip()
        self._started = self._started or bool(text)
        return text


class SpaceHeld:
    """White space of one growing answer, held back where it may be the answer's end."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, text: str) -> str:
        """Take the next text and return what is known to be followed by words, and these."""
        text = self._held + text
        shown = text.rstrip()
        self._held = text[len(shown) :]
        return shown
