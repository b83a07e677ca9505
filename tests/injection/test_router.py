"""The router against its equations, and what it must not depend on."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkim_ray.config import M3OEConfig
from fedkim_ray.injection.router import EmbeddedTexts, Router, keep_top_k, routing_entropy


def texts(*lengths: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 8, generator=generator) for n in lengths]


def router(**options: Any) -> Router:
    torch.manual_seed(0)
    return Router(8, 4, 6, 3, **options)


def by_the_equations(r: Router, task: Tensor, modality: Tensor, num_heads: int) -> Tensor:
    """Equations of one pair of texts, head by head, without any padding."""
    Q, K, V = modality @ r.W_q.weight.T, task @ r.W_k.weight.T, task @ r.W_v.weight.T
    d_k = 4 // num_heads
    heads = [slice(start, start + d_k) for start in range(0, 4, d_k)]
    beta = [torch.softmax(Q[:, h] @ K[:, h].T / math.sqrt(d_k), -1) @ V[:, h] for h in heads]
    return torch.softmax(r.mlp(torch.cat(beta, -1).mean(0)), -1)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_padded_texts_route_as_each_alone(num_heads: int) -> None:
    r = router(num_heads=num_heads)
    tasks, modalities = texts(3, 7, 5), texts(6, 2, 4, seed=1)
    alpha = r(EmbeddedTexts.pad(tasks), EmbeddedTexts.pad(modalities))
    for row, pair in enumerate(zip(tasks, modalities, strict=True)):
        torch.testing.assert_close(alpha[row], by_the_equations(r, *pair, num_heads))


def test_expert_weights_sum_to_one() -> None:
    alpha = router()(EmbeddedTexts.pad(texts(3, 9)), EmbeddedTexts.pad(texts(4, 4)))
    torch.testing.assert_close(alpha.sum(-1), torch.ones(2))
    assert bool((alpha >= 0).all())


def test_without_task_descriptions_the_task_moves_nothing() -> None:
    r, modality = router(key_value_from="modality"), EmbeddedTexts.pad(texts(4))
    one, other = (EmbeddedTexts.pad(texts(5, seed=s)) for s in (1, 2))
    torch.testing.assert_close(r(one, modality), r(other, modality))
    assert not torch.allclose(router()(one, modality), router()(other, modality))


def test_without_modality_descriptions_the_modality_moves_nothing() -> None:
    r, task = router(query_from="task"), EmbeddedTexts.pad(texts(4))
    one, other = (EmbeddedTexts.pad(texts(5, seed=s)) for s in (1, 2))
    torch.testing.assert_close(r(task, one), r(task, other))
    assert not torch.allclose(router()(task, one), router()(task, other))


def test_entropy_of_a_uniform_and_of_a_decided_router() -> None:
    alpha = torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(routing_entropy(alpha), torch.tensor([math.log(4), 0.0]))


# Of 0.5, 0.3, 0.2 the two largest are 0.8 together: 0.625 and 0.375.
def test_top_k_keeps_the_largest_and_sums_to_one() -> None:
    kept = keep_top_k(torch.tensor([[0.5, 0.2, 0.3], [0.2, 0.5, 0.3]]), 2)
    torch.testing.assert_close(kept, torch.tensor([[0.625, 0.0, 0.375], [0.0, 0.625, 0.375]]))


def test_a_router_with_top_k_leaves_the_other_experts_out() -> None:
    task, modality = EmbeddedTexts.pad(texts(4, 6)), EmbeddedTexts.pad(texts(3, 3, seed=1))
    alpha = router(top_k=2)(task, modality)
    least = torch.eye(3)[router()(task, modality).argmin(-1)]
    assert (alpha == 0).tolist() == (least == 1).tolist()


# One weight that is kept is x / x = 1. Of 0.5 and 0.3, the first is x / (x + 0.3), whose slope is
# 0.3 / 0.8^2.
@pytest.mark.parametrize(("k", "slope"), [(1, 0.0), (2, 0.46875)])
def test_one_expert_alone_would_leave_the_router_no_gradient(k: int, slope: float) -> None:
    alpha = torch.tensor([[0.5, 0.2, 0.3]], requires_grad=True)
    keep_top_k(alpha, k)[0, 0].backward()
    assert alpha.grad is not None
    assert alpha.grad[0, 0].item() == pytest.approx(slope)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"router": {"dim": 16, "num_heads": 3}}, "dim 16 does not divide into num_heads 3"),
        ({"num_experts": 2, "router": {"top_k": 3}}, "top_k 3 exceeds num_experts 2"),
        ({"num_experts": 0}, "greater than 0"),
        ({"rank": 0}, "greater than 0"),
    ],
)
def test_an_impossible_mixture_is_refused_in_the_recipe(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        M3OEConfig.model_validate(values)
