"""Stock PEFT and stock transformers answer from a compiled bundle as the gated model does."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from fedkim_ray.bundle.fold import fold, write_folded
from fedkim_ray.bundle.merge import write_merged
from fedkim_ray.bundle.read import LoadedBundle, load_bundle, read_facts
from fedkim_ray.data.loading import collate, load_samples
from fedkim_ray.errors import RecipeError, RequestError, StorageError
from fedkim_ray.injection.base_model import find_base, load_base, untie_head
from fedkim_ray.injection.inference import decode
from fedkim_ray.injection.model import Prompted
from fedkim_ray.injection.router import keep_top_k
from fedkim_ray.storage import Folder

TASK, MODALITIES = "mortality", ("lab", "vital", "input", "output")
WriteBundle = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Asked:
    """A gated bundle and some rows of one (task, modalities) pair as the LLM reads them."""

    url: str
    bundle: LoadedBundle
    prompted: Prompted
    logits_BV: Tensor
    """Of the gated model, at the last column."""
    tokens: list[list[int]]
    """Four greedy steps of the gated model."""


def ask(url: str, data_url: str, top_k: int | None = None) -> Asked:
    bundle = load_bundle(url)
    model, facts = bundle.model, bundle.facts
    rows = load_samples(Folder.at(data_url) / "test" / TASK, facts.spec)
    batch = collate([rows[i] for i in range(3)], facts.spec)
    with torch.inference_mode():
        prompted = model.prompt(batch)
        if top_k is not None:
            prompted.alpha_BP.copy_(keep_top_k(prompted.alpha_BP, top_k))
        with model.hold(prompted.alpha_BP):
            hidden = model.hidden(prompted, use_cache=False).last_hidden_state[:, -1]
            logits = model.head(hidden, torch.arange(3))
    steps = list(decode(model, batch, 4, prompted=prompted))
    return Asked(url, bundle, prompted, logits, [list(row) for row in zip(*steps, strict=True)])


def answers(llm: Any, asked: Asked) -> tuple[Tensor, list[list[int]]]:
    """Logits at the last column and four greedy tokens, by transformers' own means."""
    inputs = {
        "inputs_embeds": asked.prompted.embeds_BLE,
        "attention_mask": asked.prompted.mask_BL,
    }
    with torch.inference_mode():
        logits = llm(**inputs, position_ids=asked.prompted.position_ids).logits[:, -1]
        tokens = llm.generate(**inputs, max_new_tokens=4, do_sample=False)
    return logits, tokens.tolist()


def untied_base(folder: Path) -> str:
    """Write the tiny base with a head of its own weights, other than the embeddings'."""
    base = load_base("tiny-random", "float32")
    untie_head(base.llm)
    base.llm.get_output_embeddings().weight.data.mul_(-1.0)
    base.llm.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("top_k", [None, 1, 2])
def test_peft_alone_answers_from_a_folded_adapter(
    bundle_url: str, tiny_root: str, tmp_path: Path, top_k: int | None
) -> None:
    asked = ask(bundle_url, tiny_root, top_k)
    write_folded(Folder.at(tmp_path / "folded"), fold(bundle_url, TASK, MODALITIES, top_k))
    config = json.loads((tmp_path / "folded/adapter_config.json").read_text())
    assert config["r"] == 2 * (top_k or 3)  # three experts of rank 2
    stock = PeftModel.from_pretrained(load_base("tiny-random", "float32").llm, tmp_path / "folded")
    logits, tokens = answers(stock.eval(), asked)
    torch.testing.assert_close(logits, asked.logits_BV, rtol=0.0, atol=1e-5)
    assert tokens == asked.tokens


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapted_head_folds_and_merges_without_touching_the_embeddings(
    write_tiny_bundle: WriteBundle, tiny_root: str, tmp_path: Path, tied: bool
) -> None:
    base = "tiny-random" if tied else untied_base(tmp_path / "base")
    url = write_tiny_bundle(
        tmp_path, "m3oe", "injection.m3oe.target_modules=all", f"base.name={base}"
    )
    asked, folded = ask(url, tiny_root), fold(url, TASK, MODALITIES)
    assert {n.split(".")[-2] for n in folded.weights} == {"lora_A", "lora_B"}  # no base weights
    assert "base_model.model.lm_head.lora_A.weight" in folded.weights
    write_merged(Folder.at(tmp_path / "merged"), folded, asked.bundle.facts, "float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    logits, tokens = answers(merged, asked)
    torch.testing.assert_close(logits, asked.logits_BV, rtol=0.0, atol=1e-5)
    assert tokens == asked.tokens
    assert not merged.config.tie_word_embeddings
    plain = AutoModelForCausalLM.from_pretrained(find_base(base))
    assert torch.equal(merged.get_input_embeddings().weight, plain.get_input_embeddings().weight)


def test_a_merged_model_answers_without_any_adapter(
    bundle_url: str, tiny_root: str, tmp_path: Path
) -> None:
    asked, folded = ask(bundle_url, tiny_root), fold(bundle_url, TASK, MODALITIES)
    write_merged(Folder.at(tmp_path / "merged"), folded, asked.bundle.facts, "float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    logits, tokens = answers(merged, asked)
    torch.testing.assert_close(logits, asked.logits_BV, rtol=0.0, atol=1e-5)
    assert tokens == asked.tokens
    assert merged.config.tie_word_embeddings  # nothing changed the head


def test_another_pair_folds_to_another_adapter_and_the_order_of_modalities_does_not(
    bundle_url: str,
) -> None:
    alpha = fold(bundle_url, TASK, MODALITIES).alpha_P
    assert torch.equal(fold(bundle_url, TASK, MODALITIES[::-1]).alpha_P, alpha)
    assert not torch.equal(fold(bundle_url, "covid19", ["image"]).alpha_P, alpha)


def test_what_lies_in_the_folder_is_not_overwritten(bundle_url: str, tmp_path: Path) -> None:
    folded = fold(bundle_url, TASK, MODALITIES)
    facts = read_facts(Folder.at(bundle_url))
    notes = tmp_path / "mine/notes.txt"
    notes.parent.mkdir()
    notes.write_text("years of work")
    for folder, names in ((notes.parent, "'notes.txt'"), (Path(bundle_url), r"'README.md'")):
        with pytest.raises(StorageError, match=rf"holds {names} and is no folded-adapter"):
            write_folded(Folder.at(folder), folded)
        with pytest.raises(StorageError, match=rf"holds {names} and is no merged-model"):
            write_merged(Folder.at(folder), folded, facts, "float32")
    assert notes.read_text() == "years of work"
    assert read_facts(Folder.at(bundle_url)) == facts
    for _ in range(2):  # an older one is replaced
        write_folded(Folder.at(tmp_path / "folded"), folded)


def test_an_impossible_fold_is_refused(
    bundle_url: str, write_tiny_bundle: WriteBundle, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=r"no task 'flu'.*mortality"):
        fold(bundle_url, "flu", MODALITIES)
    with pytest.raises(RequestError, match=r"\['x-ray'\].*image, signal"):
        fold(bundle_url, TASK, ["x-ray"])
    plain = write_tiny_bundle(tmp_path / "plain", "lora")
    with pytest.raises(RecipeError, match=r"no routed experts.*adapter/"):
        fold(plain, TASK, MODALITIES)
