"""Logits behind the output head, and two words' where the working precision would round them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from fedkim_ray.data.demo.tiny import SPEC
from fedkim_ray.data.loading import SampleSet, collate
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.injection.base_model import BaseModel, load_base
from fedkim_ray.injection.inference import answer_token_ids, score
from fedkim_ray.injection.logits import behind_head, word_logits
from fedkim_ray.injection.m3oe import ExpertGate, add_experts
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.recipe_files import load_recipe
from tests.injection.small_models import FAMILIES, SHAPE, small_model
from tests.injection.tiny import tiny_injection


def adapted(llm: PreTrainedModel, gate: ExpertGate | None, rank: int) -> PeftModel:
    """Adapt every linear layer, the head too, with two experts of the scale s = 1."""
    return add_experts(
        llm,
        num_experts=2,
        rank=rank,
        lora_alpha=float(rank),
        dropout=0.0,
        target_modules="all",
        gate=gate,
    )


# ---- two words ----------------------------------------------------------------------------------


def test_logits_that_bfloat16_cannot_tell_apart_are_told_apart() -> None:
    head = nn.Linear(2, 3, bias=True, dtype=torch.bfloat16)
    llm = SimpleNamespace(config=LlamaConfig(), get_output_embeddings=lambda: head)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[4.0, 0.0], [4.0, 0.0625], [0.0, 0.0]]))
        head.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
        hidden = torch.tensor([[8.0, 1.0], [1.0, 2.0]], dtype=torch.bfloat16)
        # 4 * 8 = 32, whose next in bfloat16 is 32.25: the head gives 32 twice.
        assert head(hidden)[0, 0] == head(hidden)[0, 1]
        pairs = word_logits(llm, hidden, torch.tensor([[0, 1], [2, 0]]))
    assert pairs.tolist() == [[32.0, 32.0625], [1.0, 4.0]]


# Both words have W h = 4 * 8 = 32. Of h = (8, 1), the first expert reads 8 and the second 1; the
# second word gets 8 / 128 of the one and 1 / 8 of the other.
def test_an_adapted_head_tells_them_apart_by_each_rows_experts() -> None:
    shape = {"hidden_size": 2, "num_attention_heads": 1, "num_key_value_heads": 1}
    config = LlamaConfig(**(SHAPE | shape), tie_word_embeddings=False)
    gate = ExpertGate(2, 1)
    model = adapted(AutoModelForCausalLM.from_config(config), gate, rank=1)
    llm = model.to(torch.bfloat16).eval().get_base_model()
    head = llm.get_output_embeddings()
    with torch.no_grad():
        head.base_layer.weight[:2] = torch.tensor([4.0, 0.0])
        head.lora_A["default"].weight.copy_(torch.eye(2))
        head.lora_B["default"].weight[:2] = torch.tensor([[0.0, 0.0], [1 / 128, 1 / 8]])
        hidden = torch.tensor([[8.0, 1.0], [8.0, 1.0]], dtype=torch.bfloat16)
        with gate.hold(torch.eye(2)):
            with gate.at_rows(torch.arange(2)):
                assert head(hidden)[:, :2].tolist() == [[32.0, 32.0], [32.0, 32.0]]
            pairs = word_logits(llm, hidden, torch.tensor([[0, 1], [0, 1]]), gate)
    assert pairs.tolist() == [[32.0, 32.0625], [32.0, 32.125]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("gate", [ExpertGate(2, 3), None], ids=["m3oe", "lora"])
def test_two_words_have_the_heads_own_logits(family: str, gate: ExpertGate | None) -> None:
    llm = adapted(small_model(family).float(), gate, rank=3).eval().get_base_model()
    head, hidden = llm.get_output_embeddings(), torch.randn(3, 16)
    nn.init.normal_(head.lora_B["default"].weight)
    ids, rows = torch.tensor([[0, 1], [7, 3], [2, 2]]), torch.arange(3)
    with torch.no_grad():
        if gate is None:
            expected, came = head(hidden), word_logits(llm, hidden, ids)
        else:
            with gate.hold(torch.tensor([[1.0, 0.0], [0.2, 0.8], [0.5, 0.5]])):
                came = word_logits(llm, hidden, ids, gate)
                with gate.at_rows(rows):
                    expected = head(hidden)
    torch.testing.assert_close(came, expected.gather(1, ids))


def test_questions_stay_distinct_in_bfloat16_where_the_head_is_adapted(
    samples: dict[str, SampleSet],
) -> None:
    model = injected(load_base("tiny-random", "bfloat16"), "bfloat16")
    rows = samples["mortality"]
    B = model.causal_lm.get_output_embeddings().lora_B["default"].weight.data
    B.copy_(300.0 * B[:1])  # one amount to all words, some 100: bfloat16 counts in halves there
    batch = collate([rows[i] for i in range(len(rows))], SPEC)
    yes = score(model, batch)[:, 1].tolist()
    assert len(set(yes)) == len(rows)


def injected(base: BaseModel, dtype: str) -> InjectedModel:
    """A model whose head is adapted, with B away from zero."""
    torch.manual_seed(0)
    m3oe = tiny_injection(1).m3oe.model_copy(update={"target_modules": "all"})
    injection = tiny_injection(1).model_copy(update={"m3oe": m3oe})
    encoders = load_recipe("tiny").encoders
    model = InjectedModel(base, injection, encoders, SPEC, {task.id: task for task in TASKS})
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model.to(getattr(torch, dtype)).eval()


# ---- behind the head ----------------------------------------------------------------------------

SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "granite": {"logits_scaling": 8.0},
    "cohere": {"logit_scale": 0.0625},
    "gemma2": {"final_logit_softcapping": 0.5, "head_dim": 4},
    "hyperclovax": {"logits_scaling": 0.125},
    "minicpm3": {"dim_model_base": 4, "num_key_value_heads": 4},  # of a width of 16: logits / 4
}


def scaled_model(family: str, **changes: Any) -> PreTrainedModel:
    """Return a random model that scales or caps its logits."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(SHAPE | SETTINGS[family] | changes))
    llm: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    nn.init.normal_(llm.get_output_embeddings().weight)
    return llm.requires_grad_(False)


@pytest.mark.parametrize("family", SETTINGS)
def test_logits_are_the_models_own(family: str) -> None:
    llm, ids = scaled_model(family), torch.arange(8)[None]
    expected = llm(ids).logits[:, -1]
    hidden = llm.model(ids).last_hidden_state[:, -1]
    plain = llm.get_output_embeddings()(hidden)
    torch.testing.assert_close(behind_head(llm, plain), expected)
    assert torch.allclose(plain, expected, atol=1e-5) == (family == "llama")
    words = torch.tensor([[5, 2]])
    torch.testing.assert_close(word_logits(llm, hidden, words), expected.gather(1, words))


@pytest.mark.parametrize("family", ["granite", "cohere", "gemma2"])
def test_an_injected_model_trains_and_scores_on_the_models_own_logits(
    family: str, samples: dict[str, SampleSet]
) -> None:
    tokenizer = load_base("tiny-random", "float32").tokenizer
    llm = scaled_model(family, vocab_size=len(tokenizer))
    model = injected(BaseModel(llm, tokenizer, fingerprint=""), "float32")
    batch = collate([samples["mortality"][0], samples["mortality"][1]], SPEC)
    prompted = model.prompt(batch, [e.answer for e in batch.examples])
    asked = model.prompt(batch)
    words = [answer_token_ids(model, model.tasks[e.task]) for e in batch.examples]
    with torch.no_grad(), model.hold(prompted.alpha_BP):
        came = model.answer_logits(prompted)
        whole, unanswered = (
            model.causal_lm(
                inputs_embeds=p.embeds_BLE,
                attention_mask=p.mask_BL,
                position_ids=p.position_ids,
            ).logits
            for p in (prompted, asked)
        )
    expected = whole[prompted.answer_rows_A, prompted.answer_columns_A]
    torch.testing.assert_close(came, expected, rtol=1e-4, atol=1e-5)
    pairs = unanswered[:, -1].gather(1, torch.tensor(words)).softmax(-1)
    torch.testing.assert_close(score(model, batch), pairs, rtol=1e-4, atol=1e-5)
