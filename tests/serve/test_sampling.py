"""Choosing tokens: the likeliest, or drawn by a row's own rule and random numbers."""

import pytest
import torch

from serve.engine import Sampling
from serve.sampling import Draw, choose_tokens, nucleus
from serve.stop_words import StopWords

P = torch.tensor([0.1, 0.5, 0.4])


def test_the_nucleus_is_the_smallest_set_that_holds_the_share() -> None:
    torch.testing.assert_close(nucleus(P, 0.45), torch.tensor([0.0, 0.5, 0.0]))
    torch.testing.assert_close(nucleus(P, 0.6), torch.tensor([0.0, 0.5, 0.4]))
    torch.testing.assert_close(nucleus(P, 1.0), P)


def test_each_row_follows_its_own_rule() -> None:
    logits = P.log().repeat(3, 1)
    greedy = Draw(Sampling())
    narrow = Draw(Sampling(temperature=2.0, top_p=0.01, seed=1))
    cold = Draw(Sampling(temperature=1e-3, seed=1))
    tokens, failures = choose_tokens(logits, [greedy, narrow, cold])
    assert (tokens.tolist(), failures) == ([1, 1, 1], {})


@pytest.mark.parametrize("temperature", [6e-38, 5e-324])
def test_the_lowest_temperatures_take_the_most_likely_token(temperature: float) -> None:
    draw = Draw(Sampling(temperature=temperature, seed=1))
    assert int(draw.draw(100 * P.log())) == 1


def test_a_row_that_cannot_be_drawn_leaves_the_others_alone() -> None:
    logits = torch.stack([P.log(), torch.full((3,), float("nan")), P.log()])
    draws = [Draw(Sampling(temperature=t, seed=1)) for t in (0.0, 1.0, 1e-3)]
    tokens, failures = choose_tokens(logits, draws)
    assert (tokens[0], tokens[2], list(failures)) == (1, 1, [1])


def test_draws_follow_the_probabilities_and_a_seed_repeats_them() -> None:
    rule = Sampling(temperature=1.0, seed=3)
    first, again = ([int(Draw(rule).draw(P.log())) for _ in range(5)] for _ in range(2))
    assert first == again
    many = Draw(rule)
    drawn = torch.bincount(torch.stack([many.draw(P.log()) for _ in range(2000)]), minlength=3)
    torch.testing.assert_close(drawn / 2000, P, atol=0.04, rtol=0.0)


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "found"),
    [
        (["one ", "two"], [], "one two", False),
        (["one tw", "o three"], ["two"], "one ", True),
        (["one t", "w", "ig"], ["two"], "one twig", False),
        (["a\n", "\nb"], ["\n\n", "b"], "a", True),
        (["aa", "ab"], ["aab"], "a", True),
    ],
)
def test_a_stop_text_is_found_across_pieces_and_never_shown(
    pieces: list[str], stops: list[str], shown: str, found: bool
) -> None:
    watch = StopWords(stops)
    text = ""
    for piece in pieces:
        text += watch.add(piece)
        if watch.found:
            break
    else:
        text += watch.end()
    assert (text, watch.found) == (shown, found)
