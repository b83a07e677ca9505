"""Pooling and projection, with numbers checked in the head."""

import torch

from fedkim_ray.injection.aligner import Aligner, pool_tokens


def test_pooling_averages_stretches_over_tokens_that_carry_something() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [5.0], [100.0]]])
    carries = torch.tensor([[True, True, True, False]])
    pooled, kept = pool_tokens(tokens, carries, 2)
    assert pooled.tolist() == [[[2.0], [5.0]]]
    assert kept.tolist() == [[True, True]]


def test_a_stretch_that_carries_nothing_is_zero_and_says_so() -> None:
    pooled, kept = pool_tokens(torch.ones(1, 2, 1), torch.tensor([[True, False]]), 2)
    assert pooled.tolist() == [[[1.0], [0.0]]]
    assert kept.tolist() == [[True, False]]


def test_aligned_tokens_start_at_the_size_of_embeddings() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(64, 4, 96)
    aligned, _ = Aligner(96, 576, 0.1)(tokens, torch.ones(64, 4, dtype=torch.bool))
    assert aligned.shape == (64, 4, 576)
    assert abs(float(aligned.detach().std()) - 0.1) < 0.01
