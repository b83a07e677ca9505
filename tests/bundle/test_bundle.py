"""A bundle comes back as it was written, or is refused with the reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel

from fedkim_ray.bundle import read
from fedkim_ray.bundle.layout import ADAPTER_WEIGHTS, CARD, COMPONENTS, from_peft_name, to_peft_name
from fedkim_ray.bundle.read import load_bundle, read_facts
from fedkim_ray.bundle.write import version_of, write_bundle
from fedkim_ray.data.loading import collate, load_samples
from fedkim_ray.data.root import read_card
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.errors import BaseModelError, StorageError
from fedkim_ray.injection.base_model import BaseModel, load_base
from fedkim_ray.injection.inference import score
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.round_files import read_injection
from fedkim_ray.injection.step_log import StepLog
from fedkim_ray.injection.training import load_params
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.storage import Folder

WriteBundle = Callable[[Path, str], str]


@pytest.mark.parametrize("adapter", ["m3oe", "lora", "none"])
def test_a_bundle_answers_as_the_model_it_was_written_from(
    write_tiny_bundle: WriteBundle, tiny_root: str, adapter: str, tmp_path: Path
) -> None:
    url = write_tiny_bundle(tmp_path, adapter)
    bundle = load_bundle(url)
    facts = bundle.facts
    base = load_base(facts.base.name, facts.base.dtype)
    tasks = {task.id: task for task in facts.tasks}
    written = InjectedModel(base, facts.injection, facts.encoders, facts.spec, tasks).eval()
    state, _ = read_injection(Folder.at(Path(url).parent / "injected"))
    load_params(written, state.params)
    root = Folder.at(tiny_root)
    sets = [load_samples(root / "test" / t, facts.spec) for t in ("covid19", "mortality")]
    batch = collate([s[i] for s in sets for i in range(4)], facts.spec)
    assert torch.equal(score(bundle.model, batch), score(written, batch))


def test_facts_tell_where_the_bundle_comes_from(bundle_url: str) -> None:
    facts = read_facts(Folder.at(bundle_url))
    assert facts.steps == 3
    assert [c.client_id for c in facts.clients] == ["north", "south"]
    # North: 48 examples of each of its three tasks.
    assert facts.clients[0].num_examples == 3 * 48
    assert facts.data_kinds["mortality"] == "synthetic"
    assert facts.training["mortality"] == pytest.approx(0.8)


def test_what_an_earlier_round_alone_trained_was_trained(
    write_tiny_bundle: WriteBundle, tiny_root: str, tmp_path: Path
) -> None:
    facts = read_facts(Folder.at(write_tiny_bundle(tmp_path, "m3oe")))
    recipe, card = load_recipe("tiny"), read_card(Folder.at(tiny_root))
    earlier = StepLog()
    earlier.add(0, [("mortality", 9.0), ("drawn_early", 7.0)])
    again = write_bundle(
        Folder.at(tmp_path / "again"),
        Folder.at(tmp_path / "injected"),
        recipe,
        card,
        TASKS,
        card.clients,
        earlier=[earlier],
    )
    assert again.training == {**facts.training, "drawn_early": 7.0}


def test_model_card_names_every_task_and_is_no_medical_device(bundle_url: str) -> None:
    card = Folder.at(bundle_url).read_bytes(CARD).decode()
    assert all(f"| {task.id} | {task.role} |" in card for task in TASKS)
    assert "Not a medical device" in card
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "a mixture of 3 LoRA experts" in card
    assert "| tiny | synthetic | CC0-1.0 | lung_opacity, " in card


def test_the_head_of_a_model_card_is_yaml_that_a_hub_reads(
    write_tiny_bundle: WriteBundle, tmp_path: Path
) -> None:
    card = Folder.at(write_tiny_bundle(tmp_path, "none")).read_bytes(CARD).decode()
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == "tiny-random"
    assert head["tags"] == ["medical", "federated-learning"]
    assert "has no adapter" in card


def test_the_adapter_is_stock_peft_and_the_uniform_mixture(bundle_url: str) -> None:
    bundle = load_bundle(bundle_url)
    ids = torch.arange(40, 60)[None]
    base = load_base("tiny-random", "float32")
    stock = PeftModel.from_pretrained(base.llm, str(Path(bundle_url) / "adapter")).eval()
    num_experts = bundle.facts.injection.m3oe.num_experts
    with torch.inference_mode():
        plain = load_base("tiny-random", "float32").llm(input_ids=ids).logits
        expected = stock(input_ids=ids).logits
        with bundle.model.hold(torch.full((1, num_experts), 1 / num_experts)):
            came = bundle.model.causal_lm(input_ids=ids).logits
    torch.testing.assert_close(came, expected, atol=1e-5, rtol=0.0)
    assert (expected - plain).abs().max() > 0.1  # the adapter matters


def test_a_changed_byte_is_refused_by_name(bundle_url: str) -> None:
    for name in (COMPONENTS, ADAPTER_WEIGHTS, CARD):
        file = Path(bundle_url) / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(StorageError, match=rf"{name}' has SHA-256 .*altered, truncated"):
            load_bundle(bundle_url)
        file.write_bytes(whole)
    load_bundle(bundle_url)


def test_a_lost_file_is_refused_by_name(bundle_url: str) -> None:
    (Path(bundle_url) / COMPONENTS).unlink()
    with pytest.raises(StorageError, match=rf"{COMPONENTS}' has SHA-256 no such file"):
        load_bundle(bundle_url)


def test_another_format_version_is_refused(bundle_url: str) -> None:
    manifest = Path(bundle_url) / "manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**values, "format_version": 2}))
    with pytest.raises(StorageError, match=r"format version 2.*of format version 1"):
        load_bundle(bundle_url)


def test_a_round_is_no_bundle(bundle_url: str) -> None:
    with pytest.raises(StorageError, match=r"kind 'injection'.*reads a bundle"):
        load_bundle(str(Path(bundle_url).parent / "injected"))


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"There is no published bundle"):
        load_bundle(str(tmp_path / "absent"))


def test_another_base_model_is_refused(bundle_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(name: str, *how: Any) -> BaseModel:
        base = load_base(name, *how)
        return BaseModel(base.llm, base.tokenizer, "0" * 64)

    monkeypatch.setattr(read, "load_base", other)
    with pytest.raises(BaseModelError, match=r"has SHA-256 0{64}.*was trained on"):
        load_bundle(bundle_url)


@pytest.mark.parametrize(("there", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_bundle_is_loaded_where_its_precision_was_chosen_for(
    bundle_url: str, monkeypatch: pytest.MonkeyPatch, there: bool, dtype: str
) -> None:
    class AskedError(Exception):
        pass

    def ask(name: str, dtype: str, revision: object, packed: str, on_gpu: bool) -> BaseModel:
        raise AskedError(dtype, on_gpu)

    monkeypatch.setattr(read, "load_base", ask)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # a CPU that is slow in bfloat16
    for told, expected in ((None, (dtype, there)), (False, ("float32", False))):
        with pytest.raises(AskedError) as raised:
            load_bundle(bundle_url, "auto", told)
        assert raised.value.args == expected


def test_version_changes_with_any_weight_and_with_nothing_else() -> None:
    params = {"a": torch.zeros(3), "b": torch.ones(2)}
    assert version_of(params) == version_of(dict(reversed(params.items())))
    assert version_of(params) != version_of({**params, "a": torch.tensor([0.0, 0.0, 1e-6])})


def test_peft_names_go_there_and_back() -> None:
    name = "llm.base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight"
    assert to_peft_name(name) == "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    assert from_peft_name("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight") == name
    assert to_peft_name("router.W_q.weight") is None
