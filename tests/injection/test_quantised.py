"""A packed base: bitsandbytes packs and computes on a CPU too (`make test-quantised`)."""

from pathlib import Path

import pytest
import torch

from fedkim_ray.data.demo.tiny import SPEC
from fedkim_ray.data.loading import SampleSet, collate
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.errors import BaseModelError
from fedkim_ray.injection.base_model import load_base
from fedkim_ray.injection.inference import score
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.round_files import read_injection
from fedkim_ray.injection.round_training import RoundSetup, RoundTrainer
from fedkim_ray.injection.step_log import StepLog
from fedkim_ray.injection.training import InjectionState, load_params
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.storage import Folder
from tests.injection.tiny import tiny_injection

BITS = ["4bit", "8bit"]


def packed_model(bits: str) -> InjectedModel:
    torch.manual_seed(0)
    base = load_base("tiny-random", "bfloat16", quantization=bits)
    tasks = {task.id: task for task in TASKS}
    encoders = load_recipe("tiny").encoders
    return InjectedModel(base, tiny_injection(1), encoders, SPEC, tasks).to(torch.bfloat16)


def test_without_bitsandbytes_a_packed_base_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BaseModelError, match=r"'4bit', and bitsandbytes is not.*quantised"):
        load_base("tiny-random", "float32", quantization="4bit")


@pytest.mark.parametrize("bits", BITS)
def test_the_linear_layers_are_packed_and_the_head_is_not(bits: str) -> None:
    pytest.importorskip("bitsandbytes")
    llm = load_base("tiny-random", "float32", quantization=bits).llm
    plain = load_base("tiny-random", "float32").llm
    kinds = {p.dtype for n, p in llm.named_parameters() if "_proj" in n}
    assert kinds == {{"4bit": torch.uint8, "8bit": torch.int8}[bits]}
    assert torch.equal(llm.get_output_embeddings().weight, plain.get_output_embeddings().weight)
    ids = torch.arange(10, 30)[None]
    with torch.inference_mode():
        came, expected = (m(input_ids=ids).logits for m in (llm, plain))
    off = float((came - expected).norm() / expected.norm())
    assert 1e-4 < off < {"4bit": 0.2, "8bit": 0.02}[bits]  # not the same, and near


def train(
    model: InjectedModel, samples: dict[str, SampleSet], out: Path, save_every: int
) -> StepLog:
    injection = tiny_injection(1, steps_per_round=4, batch_size=4, checkpoint_steps=save_every)
    setup = RoundSetup(
        injection=injection,
        dtype="bfloat16",
        seed=0,
        total_steps=4,
        rank=0,
        fingerprint="0" * 64,
    )
    params = {n: p.detach().float().clone() for n, p in model.trained_parameters().items()}
    start = InjectionState(params=params, moments={}, step=0)
    trainer = RoundTrainer(model, samples, setup)
    return trainer.train(start, Folder.at(out), on_step=lambda step, loss: None)


@pytest.mark.parametrize("bits", BITS)
def test_a_round_trains_the_adapter_and_leaves_packed_weights_alone(
    bits: str, samples: dict[str, SampleSet], one_process: None, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    model = packed_model(bits)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    log = train(model, samples, tmp_path / "out", save_every=9)
    assert log.loss[-1] < log.loss[0]
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    state, _ = read_injection(Folder.at(tmp_path / "out"))
    again = packed_model(bits)
    load_params(again, state.params)
    batch = collate([samples["covid19"][0], samples["mortality"][0]], SPEC)
    expected = score(model.eval(), batch)
    torch.testing.assert_close(score(again.eval(), batch), expected, rtol=0.0, atol=1e-3)


@pytest.mark.parametrize("bits", BITS)
def test_asking_between_steps_changes_nothing(
    bits: str, samples: dict[str, SampleSet], one_process: None, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    logs = [
        train(packed_model(bits), samples, tmp_path / str(save_every), save_every)
        for save_every in (1, 9)  # each save asks a probe, without gradients
    ]
    assert logs[0].loss == logs[1].loss
    ended = [read_injection(Folder.at(tmp_path / str(n)))[0].params for n in (1, 9)]
    assert all(torch.equal(ended[0][name], value) for name, value in ended[1].items())
