"""A round that is killed and goes on ends as one that never was (needs DeepSpeed)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkim_ray.config import InjectionConfig
from fedkim_ray.data.loading import SampleSet
from fedkim_ray.errors import ParamsMismatchError, TrainingDivergedError
from fedkim_ray.injection import training
from fedkim_ray.injection.checkpoints import Checkpoints
from fedkim_ray.injection.deepspeed_config import deepspeed_config
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.round_files import read_injection
from fedkim_ray.injection.round_training import RoundSetup, RoundTrainer
from fedkim_ray.injection.step_log import StepLog
from fedkim_ray.injection.training import InjectionState
from fedkim_ray.storage import Folder, is_published
from fedkim_ray.types import Params
from tests.injection.tiny import tiny_injection, tiny_model

FLOAT16 = torch.ops.mkldnn._is_mkldnn_fp16_supported()
ROUND_START = 3
"""Steps of earlier rounds."""


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def nothing_persists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stage 3 shard even the smallest parameter, so that an empty one would show."""

    def config(injection: InjectionConfig, dtype: str) -> dict[str, Any]:
        values = deepspeed_config(injection, dtype)
        values["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return values

    monkeypatch.setattr(training, "deepspeed_config", config)


def short_round(stage: int, **changes: Any) -> InjectionConfig:
    return tiny_injection(
        stage, **{"steps_per_round": 5, "checkpoint_steps": 2, "batch_size": 4, **changes}
    )


def start_of(model: InjectedModel) -> InjectionState:
    params = {n: p.detach().float().clone() for n, p in model.trained_parameters().items()}
    return InjectionState(params=params, moments={}, step=ROUND_START)


def train(
    out: Path,
    injection: InjectionConfig,
    dtype: str,
    samples: dict[str, SampleSet],
    kill_after: int | None = None,
) -> StepLog:
    """Train a round with a fresh model and engine, as a new process would."""

    def on_step(step: int, _loss: float) -> None:
        if kill_after is not None and step + 1 - ROUND_START == kill_after:
            raise KilledError

    model = tiny_model(injection, dtype)
    setup = RoundSetup(
        injection=injection,
        dtype=dtype,
        seed=0,
        total_steps=ROUND_START + 5,
        rank=0,
        fingerprint="0" * 64,
    )
    trainer = RoundTrainer(model, samples, setup)
    return trainer.train(start_of(model), Folder.at(out), on_step)


def require_equal(came: Params, expected: Params) -> None:
    assert came.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(came[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "dtype", "kills"),
    [(1, "bfloat16", (1, 2, 3, 4)), (3, "bfloat16", (3,)), (0, "float32", (2, 4))],
)
def test_killed_at_any_step_and_resumed_ends_with_the_same_weights(
    stage: int,
    dtype: str,
    kills: tuple[int, ...],
    samples: dict[str, SampleSet],
    one_process: None,
    tmp_path: Path,
) -> None:
    injection = short_round(stage)
    log = train(tmp_path / "whole", injection, dtype, samples)
    expected, _ = read_injection(Folder.at(tmp_path / "whole"))
    assert expected.step == ROUND_START + 5
    for kill_after in kills:
        out = tmp_path / f"killed-{kill_after}"
        with pytest.raises(KilledError):
            train(out, injection, dtype, samples, kill_after)
        assert not is_published(Folder.at(out))
        assert train(out, injection, dtype, samples) == log
        came, _ = read_injection(Folder.at(out))
        require_equal(came.params, expected.params)
        require_equal(came.moments, expected.moments)
        assert not Folder.at(f"{out}.unfinished").exists()


@pytest.mark.slow
@pytest.mark.skipif(not FLOAT16, reason="not on this CPU")
@pytest.mark.parametrize("stage", [2])
def test_float16_skips_steps_that_overflow_and_goes_on_where_its_loss_scale_stood(
    stage: int,
    samples: dict[str, SampleSet],
    one_process: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Too large at first by far, so that steps are skipped; doubled again after two good ones.
    wild = {"loss_scale": 0, "initial_scale_power": 40, "loss_scale_window": 2, "hysteresis": 1}
    monkeypatch.setattr("fedkim_ray.injection.deepspeed_config.LOSS_SCALING", wild)
    injection = short_round(stage)
    train(tmp_path / "whole", injection, "float16", samples)
    expected, _ = read_injection(Folder.at(tmp_path / "whole"))
    assert expected.loss_scale["cur_scale"] < 2**40
    assert 0 < expected.adam_steps["others"] < ROUND_START + 5  # three steps of earlier rounds
    with pytest.raises(KilledError):
        train(tmp_path / "killed", injection, "float16", samples, kill_after=3)
    train(tmp_path / "killed", injection, "float16", samples)
    came, _ = read_injection(Folder.at(tmp_path / "killed"))
    assert came.loss_scale == expected.loss_scale
    assert came.adam_steps == expected.adam_steps
    require_equal(came.params, expected.params)
    require_equal(came.moments, expected.moments)


@pytest.mark.slow
def test_a_nan_loss_stops_the_round_and_keeps_the_last_good_checkpoint(
    samples: dict[str, SampleSet], one_process: None, tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        train(tmp_path / "out", short_round(1), "float32", samples, kill_after=2)
    for changes, words in (
        ({"checkpoint_steps": 9}, "loss was nan in 3 steps"),
        ({"checkpoint_steps": 2}, "answers are not finite"),
    ):
        wild = short_round(1, lr=1e30, steps_per_round=8, **changes)
        with pytest.raises(TrainingDivergedError, match=rf"{words}.*Lower injection.lr"):
            train(tmp_path / "out", wild, "float32", samples)
    assert not is_published(Folder.at(tmp_path / "out"))
    checkpoints = Checkpoints.beside(Folder.at(tmp_path / "out"), num_workers=1)
    state, log = checkpoints.latest(tiny_model(short_round(1), "float32")) or (None, None)
    assert (state.step, log.steps) == (ROUND_START + 2, [ROUND_START, ROUND_START + 1])


# The first save after one step is the end of a round of one step, a checkpoint of one of two.
@pytest.mark.slow
@pytest.mark.parametrize(("stage", "num_steps"), [(0, 1), (1, 2), (2, 1), (3, 2)])
def test_saved_values_that_answer_otherwise_are_not_published(
    stage: int,
    num_steps: int,
    samples: dict[str, SampleSet],
    one_process: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read_a_stale_value(*args: Any, **kwargs: Any) -> InjectionState:
        state = training.read_state(*args, **kwargs)
        name = next(n for n in state.params if "lora_B" in n)
        return replace(state, params={**state.params, name: state.params[name] + 0.5})

    monkeypatch.setattr("fedkim_ray.injection.round_training.read_state", read_a_stale_value)
    injection = short_round(stage, steps_per_round=num_steps, checkpoint_steps=1)
    with pytest.raises(ParamsMismatchError, match=r"change the probe's logits"):
        train(tmp_path / "out", injection, "float32", samples)
    out = Folder.at(tmp_path / "out")
    assert not is_published(out)
    checkpoints = Checkpoints.beside(out, num_workers=1)
    assert checkpoints.latest(tiny_model(injection, "float32")) is None


@pytest.mark.slow
def test_another_number_of_workers_trains_the_whole_round_anew(
    samples: dict[str, SampleSet], one_process: None, tmp_path: Path
) -> None:
    injection = short_round(1, checkpoint_steps=9)
    log = train(tmp_path / "whole", injection, "float32", samples)
    model = tiny_model(injection, "float32")
    params = {n: p + 1.0 for n, p in start_of(model).params.items()}
    middle = InjectionState(params=params, moments={}, step=ROUND_START + 2, steps_in_round=2)
    two = Checkpoints.beside(Folder.at(tmp_path / "resumed"), num_workers=2)
    two.publish(model, middle, StepLog(), verify=lambda _params: None)
    assert train(tmp_path / "resumed", injection, "float32", samples) == log
    came, expected = (read_injection(Folder.at(tmp_path / n))[0] for n in ("resumed", "whole"))
    require_equal(came.params, expected.params)
    require_equal(came.moments, expected.moments)


def test_another_number_of_workers_starts_from_the_last_round(tmp_path: Path) -> None:
    model = tiny_model(short_round(1), "float32")
    start = start_of(model)
    one = Checkpoints.beside(Folder.at(tmp_path / "out"), num_workers=1)
    middle = InjectionState(params=start.params, moments={}, step=5, steps_in_round=2)
    one.publish(model, middle, StepLog(), verify=lambda _params: None)
    two = Checkpoints.beside(Folder.at(tmp_path / "out"), num_workers=2)
    assert two.latest(model) is None
    found = one.latest(model)
    assert found is not None
    assert (found[0].step, found[0].steps_in_round) == (5, 2)


def test_only_the_newest_whole_checkpoint_stays(tmp_path: Path) -> None:
    model = tiny_model(short_round(1), "float32")
    params = start_of(model).params
    checkpoints = Checkpoints.beside(Folder.at(tmp_path / "out"), num_workers=1)
    for step in (2, 4):
        state = InjectionState(params=params, moments={}, step=step, steps_in_round=step)
        checkpoints.publish(model, state, StepLog(), verify=lambda _params: None)
    assert checkpoints.folder.names() == ["00000004"]

    def killed(_params: Params) -> None:
        raise KilledError

    state = InjectionState(params=params, moments={}, step=6, steps_in_round=6)
    with pytest.raises(KilledError):
        checkpoints.publish(model, state, StepLog(), verify=killed)
    found = checkpoints.latest(model)
    assert found is not None
    assert found[0].step == 4


def test_a_state_with_a_lost_or_an_infinite_value_is_refused(tmp_path: Path) -> None:
    model = tiny_model(short_round(1), "float32")
    params = dict(start_of(model).params)
    checkpoints = Checkpoints.beside(Folder.at(tmp_path / "out"), num_workers=1)
    name = next(iter(params))
    for spoilt, error in (
        (torch.empty(0), ParamsMismatchError),  # what an ungathered shard looks like
        (torch.full_like(params[name], torch.inf), TrainingDivergedError),
    ):
        state = InjectionState(params={**params, name: spoilt}, moments={}, step=2)
        with pytest.raises(error, match=name.replace(".", r"\.")):
            checkpoints.publish(model, state, StepLog(), verify=lambda _params: None)
    moments = {f"exp_avg/{name}": torch.empty(0)}
    state = InjectionState(params=params, moments=moments, step=2)
    with pytest.raises(ParamsMismatchError, match=r"exp_avg/.*its parameter's shape"):
        checkpoints.publish(model, state, StepLog(), verify=lambda _params: None)
    assert checkpoints.folder.names() == []
