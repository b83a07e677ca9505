"""Text out of tokens: every piece readable, all together equal to the whole."""

import random

from serve.detokenizer import Detokenizer, SpaceHeld


class Bytes:
    """A tokenizer whose tokens are single bytes."""

    def decode(self, ids: list[int]) -> str:
        """Read bytes as text, as tokenizers do."""
        return bytes(ids).decode(errors="replace")


def pieces(text: str) -> list[str]:
    words = Detokenizer(Bytes())
    return [*(words.add(byte) for byte in text.encode()), words.end()]


def test_half_a_character_is_held_back() -> None:
    # é is two bytes: nothing after the first, the character after the second.
    assert pieces("né") == ["n", "", "é", ""]


def test_white_space_at_the_start_is_dropped() -> None:
    assert pieces(" a b ") == ["", "a", " ", "b", " ", ""]


def test_white_space_is_held_until_words_follow() -> None:
    held = SpaceHeld()
    assert [held.add(text) for text in ("a ", "b", " \n")] == ["a", " b", ""]


def test_an_answer_cut_within_a_character_shows_the_replacement() -> None:
    words = Detokenizer(Bytes())
    assert [words.add(byte) for byte in "é".encode()[:1]] == [""]
    assert words.end() == "\ufffd"


def test_pieces_join_to_the_whole_for_any_bytes() -> None:
    numbers = random.Random(0)
    for _ in range(200):
        ids = [numbers.randrange(256) for _ in range(numbers.randrange(20))]
        words = Detokenizer(Bytes())
        joined = "".join(words.add(i) for i in ids) + words.end()
        assert joined == Bytes().decode(ids).lstrip()
