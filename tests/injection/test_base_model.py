"""A base model that is not whole is refused, and by name; each is the tiny one with one fault."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedkim_ray.errors import BaseModelError
from fedkim_ray.injection import base_model
from fedkim_ray.injection.base_model import empty_base, find_base, load_base
from fedkim_ray.pipeline import plan_run
from fedkim_ray.recipe_files import load_recipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny base."""
    return shutil.copytree(find_base("tiny-random"), tmp_path / "base")


def configure(folder: Path, **changes: Any) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))


def drop_weights(folder: Path, part: str) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if part not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


# Two blocks of seven projections and two norms, the embeddings, and a last norm: the head is tied.
def test_a_tied_head_is_not_missing(folder: Path) -> None:
    assert len(load_file(folder / "model.safetensors")) == 2 * 9 + 2
    assert load_base(str(folder), "float32").llm.config.tie_word_embeddings


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda f: drop_weights(f, "1.mlp.up_proj"), r"lacks model\.layers\.1\.mlp\.up_proj\.wei"),
        (lambda f: drop_weights(f, "self_attn"), r"k_proj.*, lacks .*, and 5 more faults\."),
        (lambda f: configure(f, tie_word_embeddings=False), r"lacks lm_head\.weight\."),
        (lambda f: configure(f, vocab_size=9), r"embed_tokens\.weight as \(\d+, 64\), not \(9, 64"),
        (pickle_weights, r"no \*\.safetensors\. Weights .* pytorch_model\.bin may run code"),
        (cut_weights, r"cannot be loaded: SafetensorError: .* Check base\.name"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "cannot be loaded: JSONDecodeError"),
    ],
)
def test_a_base_that_is_not_whole_is_refused(
    folder: Path, spoil: Callable[[Path], None], text: str
) -> None:
    spoil(folder)
    with pytest.raises(BaseModelError, match=text):
        load_base(str(folder), "float32")


NO_LANGUAGE_MODEL: list[tuple[Callable[[Path], Any], str]] = [
    (lambda f: (f / "config.json").write_text("{"), "OSError: .* is not a valid JSON file"),
    (lambda f: configure(f, model_type="vit"), "ValueError: Unrecognized configuration class"),
    (lambda f: configure(f, hidden_size="wide"), "'hidden_size' expected int, got str"),
    (lambda f: configure(f, hidden_act="wavy"), "KeyError: 'wavy'"),
    (lambda f: configure(f, num_attention_heads=0), "ZeroDivisionError"),
]


@pytest.mark.parametrize(("spoil", "text"), NO_LANGUAGE_MODEL)
def test_a_configuration_of_no_language_model_is_refused(
    folder: Path, spoil: Callable[[Path], None], text: str
) -> None:
    spoil(folder)
    with pytest.raises(BaseModelError, match=text):
        load_base(str(folder), "float32")
    with pytest.raises(BaseModelError, match=text):
        empty_base(folder)


@pytest.mark.parametrize("adapter", ["m3oe", "none"])
def test_a_plan_refuses_it_before_anything_starts(
    folder: Path, tiny_root: str, adapter: str
) -> None:
    configure(folder, model_type="vit")
    sets = [f"data.root={tiny_root}", f"base.name={folder}", f"injection.adapter={adapter}"]
    with pytest.raises(BaseModelError, match="Unrecognized configuration class"):
        plan_run(load_recipe("tiny", sets))


def test_memory_that_is_too_small_is_no_fault_of_the_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(base_model.AutoModelForCausalLM, "from_pretrained", load)
    with pytest.raises(torch.OutOfMemoryError):
        load_base(str(folder), "float32")
