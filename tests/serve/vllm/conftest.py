"""A tiny bundle that vLLM on CPU can run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fedkim_ray.bundle.read import load_bundle
from fedkim_ray.injection.base_model import load_base
from serve.transformers_engine import TransformersEngine


def wide_base(folder: Path) -> str:
    """Write the tiny base with heads 32 wide: vLLM on CPU has no narrower ones."""
    tiny = load_base("tiny-random", "float32")
    config = {**tiny.llm.config.to_dict(), "head_dim": 32}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        llm = LlamaForCausalLM(LlamaConfig(**config))
    llm.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of the base model."""
    return wide_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def bundle_url(
    base: str, tmp_path_factory: pytest.TempPathFactory, write_tiny_bundle: Callable[..., str]
) -> str:
    """A bundle of it."""
    folder = tmp_path_factory.mktemp("bundle")
    return write_tiny_bundle(folder, "m3oe", f"base.name={base}")


@pytest.fixture(scope="session")
def engine(bundle_url: str) -> Iterator[TransformersEngine]:
    """The engine that is held against."""
    engine = TransformersEngine(load_bundle(bundle_url))
    yield engine
    engine.close()
