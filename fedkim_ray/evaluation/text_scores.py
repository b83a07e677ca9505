"""Scores of generated words against the right answer.

    exact match  same words after lower case, without punctuation and articles
    token F1     harmonic mean of word precision and recall, on the same words as exact match
    ROUGE-1      the same with articles kept
    ROUGE-L      F1 of the longest common subsequence of words, articles kept
    A right answer of signs or articles alone, such as "+" or "A", is one word as it stands.
    BLEU-1       clipped word precision of all answers together, times the brevity penalty

The first four are means over answers; BLEU is a ratio of sums over the whole corpus.

Source: Rajpurkar et al. 2016 (SQuAD: exact match, F1), https://arxiv.org/abs/1606.05250;
Papineni et al. 2002 (BLEU), https://doi.org/10.3115/1073083.1073135; Lin 2004 (ROUGE),
https://aclanthology.org/W04-1013.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ARTICLES = frozenset({"a", "an", "the"})
WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class TextScores:
    """What each answer adds to the corpus' scores, (N,) each."""

    exact_match: np.ndarray
    token_f1: np.ndarray
    rouge_1: np.ndarray
    rouge_l: np.ndarray
    matches: np.ndarray
    """Words said that the right answer has, each at most as often as it is there."""
    num_said: np.ndarray
    num_right: np.ndarray

    @classmethod
    def of(cls, answers: Sequence[str], said: Sequence[str]) -> "TextScores":
        """Score each answer against the right one."""
        rows = [_score(a, s) for a, s in zip(answers, said, strict=True)]
        return cls(*np.array(rows, dtype=float).T)

    def metrics(self, weights_SN: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return each score of the weighted corpus, (S,), in [0, 1]."""
        total_S = weights_SN.sum(1)
        return {
            "exact_match": weights_SN @ self.exact_match / total_S,
            "token_f1": weights_SN @ self.token_f1 / total_S,
            "bleu_1": self._bleu_1(weights_SN),
            "rouge_1": weights_SN @ self.rouge_1 / total_S,
            "rouge_l": weights_SN @ self.rouge_l / total_S,
        }

    def _bleu_1(self, weights_SN: np.ndarray) -> np.ndarray:
        num_said, num_right = weights_SN @ self.num_said, weights_SN @ self.num_right
        least = np.maximum(num_said, 1.0)
        brevity = np.exp(np.minimum(0.0, 1.0 - num_right / least))
        score: np.ndarray = brevity * (weights_SN @ self.matches) / least
        return score


def words_of(text: str) -> list[str]:
    """Return the words of ``text`` in lower case."""
    return WORD.findall(text.lower())


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    lengths = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            above = lengths[j]
            lengths[j] = diagonal + 1 if x == y else max(above, lengths[j - 1])
            diagonal = above
    return lengths[-1]


def _score(answer: str, said: str) -> tuple[float, ...]:
    right, came = words_of(answer), words_of(said)
    right_core, came_core = _without_articles(right), _without_articles(came)
    if not right_core:  # a sign, or one letter that is an article elsewhere: it stands for itself
        right, came = ([text.strip().lower()] for text in (answer, said))
        right_core, came_core = right, came
    matches = _num_shared(right, came)
    return (
        float(right_core == came_core),
        _f1(_num_shared(right_core, came_core), len(right_core), len(came_core)),
        _f1(matches, len(right), len(came)),
        _f1(longest_common(right, came), len(right), len(came)),
        matches,
        len(came),
        len(right),
    )


def _without_articles(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in ARTICLES]


def _num_shared(a: Sequence[str], b: Sequence[str]) -> int:
    return (Counter(a) & Counter(b)).total()


def _f1(num_shared: int, num_right: int, num_said: int) -> float:
    """Two empty answers agree."""
    if num_right + num_said == 0:
        return 1.0
    return 2 * num_shared / (num_right + num_said)
