"""Words against words, counted by hand."""

import math

import numpy as np
import pytest

from fedkim_ray.evaluation.text_scores import TextScores, longest_common


def scores(answer: str, said: str) -> dict[str, float]:
    found = TextScores.of([answer], [said]).metrics(np.ones((1, 1)))
    return {name: float(value[0]) for name, value in found.items()}


@pytest.mark.parametrize("said", ["The left lung.", "left LUNG", "a left lung"])
def test_exact_match_forgives_case_punctuation_and_articles(said: str) -> None:
    assert scores("the left lung", said)["exact_match"] == 1.0


def test_token_f1() -> None:
    # Without "the": 2 of the 2 right words among the 3 said.
    assert scores("the left lung", "left lung opacity")["token_f1"] == pytest.approx(2 * 2 / 5)


def test_rouge_1_keeps_articles() -> None:
    assert scores("the left lung", "left lung opacity")["rouge_1"] == pytest.approx(2 * 2 / 6)


def test_rouge_l_minds_the_order() -> None:
    # The longest common subsequence of "left lower lobe" and "lobe left lower" has two words.
    found = scores("left lower lobe", "lobe left lower")
    assert found["rouge_1"] == 1.0
    assert found["rouge_l"] == pytest.approx(2 * 2 / 6)


def test_longest_common_subsequence() -> None:
    assert longest_common("ABCBDAB", "BDCABA") == 4
    assert longest_common("", "A") == 0


def test_bleu_1_clips_repeated_words() -> None:
    # "left" counts once though said twice: 2 of 3 words.
    assert scores("the left lung", "left left lung")["bleu_1"] == pytest.approx(2 / 3)


def test_bleu_1_punishes_brevity() -> None:
    # One right word for three: precision 1, penalty exp(1 - 3).
    assert scores("the left lung", "lung")["bleu_1"] == pytest.approx(math.exp(-2))


def test_bleu_1_is_of_the_whole_corpus() -> None:
    # 1 + 2 matches among 1 + 3 words said, 4 right ones: no penalty.
    found = TextScores.of(["no", "the left lung"], ["no", "left left lung"])
    assert found.metrics(np.ones((1, 2)))["bleu_1"].tolist() == [0.75]


def test_a_sign_or_a_letter_stands_for_itself() -> None:
    found = TextScores.of(["+", "A", "A", "-"], ["+", "a", "", "+"])
    assert found.exact_match.tolist() == found.token_f1.tolist() == [1, 1, 0, 0]


def test_saying_nothing_scores_nothing() -> None:
    assert set(scores("left", "").values()) == {0.0}


def test_a_weight_is_a_repetition() -> None:
    pairs = [("left lung", "lung"), ("no", "yes"), ("two ribs", "ribs two")]
    answers, said = zip(*pairs, strict=True)
    weighted = TextScores.of(answers, said).metrics(np.array([[2.0, 0.0, 1.0]]))
    repeated = TextScores.of(
        [answers[0], answers[0], answers[2]], [said[0], said[0], said[2]]
    ).metrics(np.ones((1, 3)))
    assert {n: v[0] for n, v in weighted.items()} == pytest.approx(
        {n: v[0] for n, v in repeated.items()}
    )
