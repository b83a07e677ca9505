"""Yes or no out of words."""

import pytest

from fedkim_ray.evaluation.answers import said_label


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("Yes", 1),
        ("yes, it does.", 1),
        ("No.", 0),
        ("The answer is no", 0),
        ("No, not yes", 0),
        ("Not sure", None),
        ("Yesterday", None),
        ("", None),
    ],
)
def test_the_first_answer_word_counts(said: str, label: int | None) -> None:
    assert said_label(said, ("No", "Yes")) == label


def test_answer_words_may_be_phrases() -> None:
    assert said_label("Heart not enlarged", ("not enlarged", "is enlarged")) == 0
