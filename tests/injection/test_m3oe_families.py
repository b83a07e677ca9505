"""Whole models with M3OE against the plain loop over experts: outputs and every gradient."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from torch import Tensor, nn

from fedkim_ray.injection.m3oe import ExpertGate, add_experts
from tests.injection.plain_loop import as_plain_loop, set_alpha, stacked_gradients
from tests.injection.small_models import FAMILIES, VOCABULARY, small_model

LORA_ALPHA = 4.0


def with_experts(base: nn.Module, gate: ExpertGate, targets: str) -> PeftModel:
    """Adapt a copy of ``base``; B starts away from zero, so that every expert matters."""
    model = add_experts(
        copy.deepcopy(base),
        num_experts=gate.num_experts,
        rank=gate.rank,
        lora_alpha=LORA_ALPHA,
        dropout=0.0,
        target_modules=targets,
        gate=gate,
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2)
    return model


def padded(size: int, length: int) -> tuple[Tensor, Tensor]:
    """Random tokens and a mask with padding on the left, another amount in each row."""
    mask = torch.ones(size, length, dtype=torch.long)
    for row in mask:
        row[: int(torch.randint(0, length, ()))] = 0
    return torch.randint(0, VOCABULARY, (size, length)), mask


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, deadline=None)
@given(
    num_experts=st.integers(1, 4),
    rank=st.integers(1, 3),
    size=st.integers(1, 3),
    length=st.integers(1, 6),
    targets=st.sampled_from(["attention_mlp", "all"]),
    seed=st.integers(0, 999),
)
def test_a_whole_model_equals_the_loop_over_experts(
    family: str, num_experts: int, rank: int, size: int, length: int, targets: str, seed: int
) -> None:
    base = small_model(family, seed)
    gate = ExpertGate(num_experts, rank)
    model = with_experts(base, gate, targets)
    plain = as_plain_loop(model, base, num_experts, rank, LORA_ALPHA / rank)
    tokens, mask = padded(size, length)
    alphas = torch.randn(size, num_experts, dtype=torch.float64).softmax(-1)
    came_alpha, expected_alpha = (alphas.clone().requires_grad_() for _ in range(2))
    with gate.hold(came_alpha):
        came = model(input_ids=tokens, attention_mask=mask).logits
        came.square().sum().backward()
    set_alpha(plain, expected_alpha)
    expected = plain(input_ids=tokens, attention_mask=mask).logits
    expected.square().sum().backward()
    torch.testing.assert_close(came, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(came_alpha.grad, expected_alpha.grad, rtol=1e-5, atol=1e-5)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(gradients, stacked_gradients(plain), rtol=1e-5, atol=1e-5)


# Per block: q k v o gate up down; c_attn c_proj twice and c_fc; wqkv wo w1 w2 w3. Two blocks each.
@pytest.mark.parametrize(
    ("family", "count"), [("llama", 14), ("qwen2", 14), ("gpt2", 8), ("fused", 10)]
)
@pytest.mark.parametrize("targets", ["attention_mlp", "all"])
def test_every_projection_is_adapted_and_the_head_only_when_asked(
    family: str, count: int, targets: str
) -> None:
    model = with_experts(small_model(family), ExpertGate(2, 1), targets)
    adapted = [n for n, _ in model.named_parameters() if "lora_A" in n]
    assert len(adapted) == count + (targets == "all")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_at_gathered_rows_takes_the_gate_of_each_row(family: str) -> None:
    gate = ExpertGate(3, 2)
    head = with_experts(small_model(family), gate, "all").get_base_model().get_output_embeddings()
    hidden = torch.randn(2, 4, 16, dtype=torch.float64)
    rows, columns = torch.tensor([1, 0, 1]), torch.tensor([0, 3, 2])
    with gate.hold(torch.tensor([[1.0, 0.0, 0.0], [0.1, 0.2, 0.7]], dtype=torch.float64)):
        whole = head(hidden)
        with gate.at_rows(rows):
            gathered = head(hidden[rows, columns])
    torch.testing.assert_close(gathered, whole[rows, columns])
