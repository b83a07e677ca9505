"""One answer: where it ends, and what of it is shown."""

from serve.answer_row import AnswerRow
from serve.engine import EngineRequest, Origin, Piece, Sampling
from serve.waiting import StreamJob

ORIGIN = Origin(bundle_version="v", expert_weights=None, num_prompt_tokens=1)


class Bytes:
    """A tokenizer whose tokens are single bytes."""

    def decode(self, ids: list[int]) -> str:
        """Read bytes as text."""
        return bytes(ids).decode()


def answer(words: str, **sampling: object) -> list[Piece]:
    """Generate ``words`` byte by byte, and then the model's own end; return the pieces."""
    pieces: list[Piece] = []
    request = EngineRequest(task=None, example=None, sampling=Sampling(**sampling))
    row = AnswerRow(StreamJob(request, pieces.append), Bytes(), ORIGIN)
    for token in [*words.encode(), None]:
        if row.active:
            row.take(token)
    return pieces


def test_white_space_ends_an_answer_as_soon_as_it_is_a_stop_text() -> None:
    pieces = answer("Yes\nNo", stop=("\n",))
    assert "".join(piece.text for piece in pieces) == "Yes"
    assert (pieces[-1].finish_reason, pieces[-1].num_tokens) == ("stop", 4)


def test_white_space_within_an_answer_is_shown_and_at_its_end_is_not() -> None:
    pieces = answer("a  b \n", stop=("\n\n",))
    assert "".join(piece.text for piece in pieces) == "a  b"
    assert [piece.text for piece in pieces[:4]] == ["a", "", "", "  b"]


def test_an_answer_ends_at_its_last_token() -> None:
    pieces = answer("abc ", max_new_tokens=2)
    assert [piece.text for piece in pieces] == ["a", "b"]
    assert pieces[-1].finish_reason == "length"
