"""The router against its equations, and what it must not depend on."""

import math

import torch
from torch import Tensor

from fedkim_ray.injection.router import EmbeddedTexts, Router, routing_entropy


def texts(*lengths: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 8, generator=generator) for n in lengths]


def router(**options: str) -> Router:
    torch.manual_seed(0)
    return Router(8, 4, 6, 3, **options)  # type: ignore[arg-type]


def by_the_equations(r: Router, task: Tensor, modality: Tensor) -> Tensor:
    """Equations of one pair of texts, without any padding."""
    Q, K, V = modality @ r.W_q.weight.T, task @ r.W_k.weight.T, task @ r.W_v.weight.T
    beta = torch.softmax(Q @ K.T / math.sqrt(4), -1) @ V
    return torch.softmax(r.mlp(beta.mean(0)), -1)


def test_padded_texts_route_as_each_alone() -> None:
    r, tasks, modalities = router(), texts(3, 7, 5), texts(6, 2, 4, seed=1)
    alpha = r(EmbeddedTexts.pad(tasks), EmbeddedTexts.pad(modalities))
    for row, pair in enumerate(zip(tasks, modalities, strict=True)):
        torch.testing.assert_close(alpha[row], by_the_equations(r, *pair))


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
