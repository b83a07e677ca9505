"""What one round of injection reads and publishes in the run folder.

params.safetensors        every trained parameter, float32 masters
moments.safetensors       Adam moments of all but the encoders
adapter_config.json       PEFT's description of the adapter, where there is one
log.json                  losses by step and task, entropy and load of the experts by step
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from fedkim_ray.errors import ParamsMismatchError, StorageError, TrainingDivergedError
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.step_log import StepLog
from fedkim_ray.injection.training import InjectionState, is_encoder
from fedkim_ray.storage import Folder, open_published, publish, require_unaltered
from fedkim_ray.types import Params

KIND = "injection"
FORMAT_VERSION = 1
PARAMS, MOMENTS, LOG = "params.safetensors", "moments.safetensors", "log.json"
AGGREGATED_ENCODERS = "encoders.safetensors"
"""Of the clients' round (federation/round_files.py)."""
LIGHT = "light."
"""The injected model's name for the clients' light model; federation names lack it."""


def read_round_start(
    model: InjectedModel, aggregated_url: str, previous_url: str | None
) -> InjectionState:
    """Return the state a round starts from: the last round's, with this round's encoders.

    In the first round all but the encoders starts from the model's own seeded values.

    Raises:
        StorageError: the encoders or the last round are not as they were published.
        ParamsMismatchError: they do not fit the model.
    """
    aggregated = Folder.at(aggregated_url)
    require_unaltered(aggregated, AGGREGATED_ENCODERS)
    encoders = aggregated.read_tensors(AGGREGATED_ENCODERS)
    if previous_url is None:
        params = {n: p.detach().float().clone() for n, p in model.trained_parameters().items()}
        last = InjectionState(params=params, moments={}, step=0)
    else:
        last, _ = read_injection(Folder.at(previous_url))
    params = {**last.params, **{LIGHT + name: value for name, value in encoders.items()}}
    _require_complete(model, params)
    return replace(last, params=params)


def read_injection(folder: Folder) -> tuple[InjectionState, dict[str, Any]]:
    """Return the state that a published round ended with, and its manifest.

    Raises:
        StorageError: it is not whole or of another format.
    """
    manifest = open_published(folder, KIND, FORMAT_VERSION)
    state, _ = load_state(folder, manifest)
    return state, manifest


def read_log(folder: Folder) -> StepLog:
    """Return the losses and the routing of a published round."""
    log = folder.read_json(LOG)
    by_task = {
        t: [(int(s), float(x)) for s, x in pairs] for t, pairs in log["loss_by_task"].items()
    }
    return StepLog(**{**log, "loss_by_task": by_task})


def load_state(folder: Folder, manifest: Mapping[str, Any]) -> tuple[InjectionState, StepLog]:
    """Read back what ``write_state`` wrote, from a folder that was held against its manifest."""
    state = InjectionState(
        params=folder.read_tensors(PARAMS),
        moments=folder.read_tensors(MOMENTS),
        step=int(manifest["step"]),
        adam_steps=manifest.get("adam_steps", {}),
        loss_scale=manifest.get("loss_scale", {}),
    )
    return state, read_log(folder)


def facts_of(state: InjectionState) -> dict[str, Any]:
    """Return what a manifest says of a state beside its files."""
    return {
        "step": state.step,
        "adam_steps": dict(state.adam_steps),
        "loss_scale": dict(state.loss_scale),
    }


def write_state(out: Folder, state: InjectionState, log: StepLog) -> Params:
    """Write a state into a folder that is being published; return the parameters read back.

    Raises:
        StorageError: what is read back is not what was written.
    """
    out.write_json(LOG, asdict(log))
    _write_and_read_back(out, MOMENTS, state.moments)
    return _write_and_read_back(out, PARAMS, state.params)


def _write_and_read_back(out: Folder, name: str, tensors: Params) -> Params:
    out.write_tensors(name, tensors)
    back: Params = out.read_tensors(name)
    if any(not torch.equal(back[key], value) for key, value in tensors.items()):
        raise StorageError(
            f"{out.full(name)!r} does not read back as it was written.",
            "A file holds what was written into it.",
            "Check the disk; nothing was published.",
        )
    return back


def encoders_of(params: Params) -> dict[str, Any]:
    """Return the encoders under the names that federation uses."""
    return {n.removeprefix(LIGHT): p for n, p in params.items() if is_encoder(n)}


def publish_round(
    folder: Folder,
    model: InjectedModel,
    state: InjectionState,
    log: StepLog,
    fingerprint: str,
    verify: Callable[[Params], None] | None = None,
) -> None:
    """Check the state and publish it.

    Args:
        folder: Where to.
        model: The model whose state it is.
        state: At a round's end.
        log: Losses of the round.
        fingerprint: Of the base model.
        verify: Given the parameters read back from the files, before the manifest is written.

    Raises:
        ParamsMismatchError: a name is missing or a shape wrong.
        TrainingDivergedError: a value is not finite.
    """
    require_sound(model, state)
    facts = {**facts_of(state), "base_fingerprint": fingerprint}
    with publish(folder, KIND, FORMAT_VERSION, **facts) as out:
        back = write_state(out, state, log)
        if (config := adapter_config(model)) is not None:
            out.write_json("adapter_config.json", config)
        if verify is not None:
            verify(back)


def require_sound(model: InjectedModel, state: InjectionState) -> None:
    """Refuse a state that lacks a parameter or holds a value that is not finite.

    Raises:
        ParamsMismatchError: a name is missing or a shape wrong, of a moment too.
        TrainingDivergedError: a value is not finite.
    """
    _require_complete(model, state.params)
    for name, value in state.moments.items():
        parameter = state.params.get(name.partition("/")[2])
        if parameter is None or parameter.shape != value.shape:
            raise ParamsMismatchError(
                f"{name!r} has {_shape(tuple(value.shape))}.",
                "A moment has its parameter's shape.",
                "Nothing was published. Report this with the recipe: it is a fault of the save.",
            )
    for name, value in {**state.params, **state.moments}.items():
        if not bool(torch.isfinite(value).all()):
            raise TrainingDivergedError(
                f"{name!r} is not finite after step {state.step}.",
                "Trained values and moments are finite.",
                "Lower injection.lr; this state was not published.",
            )


def adapter_config(model: InjectedModel) -> dict[str, Any] | None:
    """Return PEFT's configuration in plain values, None without an adapter."""
    configs = getattr(model.llm, "peft_config", None)
    if not configs:
        return None
    values = configs["default"].to_dict()
    values["base_model_name_or_path"] = None  # a path of this machine; bundle.json names the base
    return {k: sorted(v) if isinstance(v, set) else v for k, v in values.items()}


def _require_complete(model: InjectedModel, params: Params) -> None:
    """Hold names and shapes against the model's; a ZeRO-3 shard's whole shape is ``ds_shape``."""
    expected = {
        n: tuple(getattr(p, "ds_shape", p.shape)) for n, p in model.trained_parameters().items()
    }
    came = {n: tuple(p.shape) for n, p in params.items()}
    wrong = sorted(n for n in expected.keys() | came.keys() if expected.get(n) != came.get(n))
    if wrong:
        first = wrong[0]
        raise ParamsMismatchError(
            f"{first!r} has {_shape(came.get(first))} ({len(wrong)} parameters differ in name or "
            "shape).",
            f"This recipe's model, of {len(expected)} trained parameters, has "
            f"{_shape(expected.get(first))}.",
            "Encoders and rounds of another recipe do not fit: use the run's own recipe.",
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "no such parameter" if shape is None else f"the shape {shape}"
