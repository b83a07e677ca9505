"""A worker that stays for all rounds loads the base once, and ends as workers of a round each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkim_ray.injection import base_model
from fedkim_ray.injection.round_files import read_injection
from fedkim_ray.injection.training import is_encoder
from fedkim_ray.injection.worker import InjectionWorker
from fedkim_ray.storage import Folder
from tests.injection.plans import plan_rounds, train_in_a_process


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders that base models are loaded from, in order; the models are really loaded."""
    seen: list[str] = []
    load = base_model.AutoModelForCausalLM.from_pretrained

    def counted(folder: Path, **how: Any) -> Any:
        seen.append(folder.name)
        return load(folder, **how)

    monkeypatch.setattr(base_model.AutoModelForCausalLM, "from_pretrained", counted)
    return seen


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """A worker sets its process up; this one goes on to other tests."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "dtype"), [(0, "float32"), (1, "bfloat16"), (2, "float32"), (3, "bfloat16")]
)
def test_one_worker_for_three_rounds_loads_the_base_once_and_ends_as_three_workers(
    stage: int,
    dtype: str,
    tiny_root: str,
    loads: list[str],
    one_process: None,
    tmp_path: Path,
) -> None:
    settings = (f"injection.zero_stage={stage}", f"base.dtype={dtype}")
    once = plan_rounds(tmp_path / "once", tiny_root, 3, *settings)
    anew = plan_rounds(tmp_path / "anew", tiny_root, 3, *settings)
    worker = InjectionWorker(once[0].recipe, once[0].tasks, rank=0)
    logs = [worker.train(plan, lambda step, loss: None) for plan in once]
    assert loads == ["tiny-random"]  # three rounds of three checked saves
    for plan, log in zip(anew, logs, strict=True):
        fresh = InjectionWorker(plan.recipe, plan.tasks, rank=0)
        assert fresh.train(plan, lambda step, loss: None) == log
    for r in range(3):
        came, expected = (read_injection(Folder.at(plans[r].out_url))[0] for plans in (once, anew))
        assert came.adam_steps == expected.adam_steps == {"others": 6 * (r + 1), "encoders": 0}
        for values, others in ((came.params, expected.params), (came.moments, expected.moments)):
            assert values.keys() == others.keys()
            assert all(torch.equal(values[name], others[name]) for name in values)
    first, last = (read_injection(Folder.at(once[r].out_url))[0].params for r in (0, 2))
    assert any(not torch.equal(first[n], last[n]) for n in first if not is_encoder(n))


@pytest.mark.slow
def test_a_round_trains_where_there_is_no_compiler(tiny_root: str, tmp_path: Path) -> None:
    compiled, empty = tmp_path / "compiled", tmp_path / "empty"
    empty.mkdir()
    paths = {"PATH": str(empty), "TORCH_EXTENSIONS_DIR": str(compiled), "CXX": "no-compiler"}
    train_in_a_process(tmp_path / "rounds", tiny_root, 1, "injection.zero_stage=2", **paths)
    assert read_injection(Folder.at(tmp_path / "rounds/injected-0"))[0].step == 6
    assert not [*compiled.rglob("*.so")]
