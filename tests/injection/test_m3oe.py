"""M3OE against the paper's sum over experts, written as a plain loop in float64."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from fedkim_ray.errors import GateShapeError, RecipeError
from fedkim_ray.injection.m3oe import ExpertGate, add_experts


def small_llama(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).double().eval()


def with_experts(
    num_experts: int, rank: int, gate: ExpertGate | None, dropout: float = 0.0
) -> nn.Module:
    model = add_experts(
        small_llama(),
        num_experts=num_experts,
        rank=rank,
        lora_alpha=4.0,
        dropout=dropout,
        target_modules="attention_mlp",
        gate=gate,
    )
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def sum_over_experts(layer: nn.Module, h: Tensor, alpha_BP: Tensor, rank: int) -> Tensor:
    """C = W h + s * sum_p alpha_p B_p A_p h, one example and one expert at a time."""
    A, B = layer.lora_A.default.weight, layer.lora_B.default.weight
    out = []
    for x, alpha in zip(h, alpha_BP, strict=True):
        c = layer.base_layer(x)
        for p, weight in enumerate(alpha):
            own = slice(p * rank, (p + 1) * rank)
            c = c + (4.0 / rank) * weight * (x @ A[own].T @ B[:, own].T)
        out.append(c)
    return torch.stack(out)


@settings(max_examples=20, deadline=None)
@given(
    num_experts=st.integers(1, 5),
    rank=st.integers(1, 3),
    size=st.integers(1, 4),
    length=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_one_layer_and_its_gradients_equal_the_sum_over_experts(
    num_experts: int, rank: int, size: int, length: int, seed: int
) -> None:
    gate = ExpertGate(num_experts, rank)
    layer = with_experts(num_experts, rank, gate).get_submodule(
        "base_model.model.model.layers.0.self_attn.q_proj"
    )
    torch.manual_seed(seed)
    h = torch.randn(size, length, 16, dtype=torch.float64, requires_grad=True)
    alpha = torch.randn(size, num_experts, dtype=torch.float64).softmax(-1).requires_grad_()
    weights = [layer.lora_A.default.weight, layer.lora_B.default.weight, alpha, h]
    with gate.hold(alpha):
        came = layer(h)
        gradients = torch.autograd.grad(came.square().sum(), weights)
    expected = sum_over_experts(layer, h, alpha, rank)
    torch.testing.assert_close(came, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), weights))


def test_without_a_gate_the_checkpoint_is_the_uniform_mixture() -> None:
    gate = ExpertGate(4, 2)
    ids = torch.arange(6)[None]
    gated, plain = with_experts(4, 2, gate), with_experts(4, 2, None)
    with gate.hold(torch.full((1, 4), 0.25, dtype=torch.float64)):
        torch.testing.assert_close(gated(ids).logits, plain(ids).logits)


def test_dropout_falls_as_in_stock_peft() -> None:
    gate, ended = ExpertGate(4, 2), []
    for held in (gate, None):
        model = with_experts(4, 2, held, dropout=0.5).train()
        torch.manual_seed(3)
        with gate.hold(torch.full((1, 4), 0.25, dtype=torch.float64)):
            logits = model(torch.arange(6)[None]).logits
            logits.square().sum().backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        ended.append([logits, *gradients])
    torch.testing.assert_close(ended[0], ended[1])


def test_each_row_of_a_batch_has_its_own_experts() -> None:
    gate = ExpertGate(3, 2)
    model = with_experts(3, 2, gate)
    ids = torch.arange(10).reshape(2, 5)
    alpha = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64)
    with gate.hold(alpha):
        together = model(ids).logits
    for row in range(2):
        with gate.hold(alpha[row : row + 1]):
            torch.testing.assert_close(model(ids[row : row + 1]).logits[0], together[row])


def test_a_forward_pass_without_a_gate_is_refused() -> None:
    model = with_experts(3, 2, ExpertGate(3, 2))
    with pytest.raises(GateShapeError, match=r"ran without expert weights"):
        model(torch.arange(3)[None])


def test_the_gate_of_another_batch_is_refused() -> None:
    gate = ExpertGate(3, 2)
    model = with_experts(3, 2, gate)
    uniform = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    with gate.hold(uniform):
        with pytest.raises(GateShapeError, match=r"saw 2 examples.*weights of 1"):
            model(torch.zeros(2, 3, dtype=torch.long))
        with pytest.raises(GateShapeError, match=r"already held"):
            gate.set(uniform)
    with pytest.raises(GateShapeError, match=r"\(1, 4\).*\(batch, 3\)"):
        gate.set(torch.ones(1, 4))


def test_no_gate_is_left_over_after_an_exception() -> None:
    gate = ExpertGate(3, 2)
    with pytest.raises(ZeroDivisionError), gate.hold(torch.ones(1, 3)):
        _ = 1 / 0
    gate.set(torch.ones(1, 3))  # would be refused if the last one were still held


def test_an_adapted_model_is_freed_at_once() -> None:
    model = with_experts(3, 2, ExpertGate(3, 2))
    layer = weakref.ref(model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj"))
    gc.collect()
    gc.disable()
    try:
        del model
        assert layer() is None
    finally:
        gc.enable()


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        gate = ExpertGate(3, 2)
        model = with_experts(3, 2, gate).train()
        if checkpointing:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        alpha = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
        with gate.hold(alpha):
            model(torch.arange(6)[None], use_cache=False).logits.square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_target_that_matches_nothing_is_named() -> None:
    with pytest.raises(RecipeError, match=r"\['wqkv'\].*q_proj"):
        add_experts(
            small_llama(),
            num_experts=1,
            rank=1,
            lora_alpha=1.0,
            dropout=0.0,
            target_modules=["q_proj", "wqkv"],
            gate=None,
        )
