"""What one round of injection reads and publishes in the run folder.

params.safetensors        every trained parameter, float32 masters
moments.safetensors       Adam moments of all but the encoders
adapter_config.json       PEFT's description of the adapter, where there is one
log.json                  losses by step and task
"""

from dataclasses import asdict
from typing import Any

import torch

from fedkim_ray.errors import ParamsMismatchError, TrainingDivergedError
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.training import InjectionState, StepLog, is_encoder
from fedkim_ray.storage import Folder, open_published, publish
from fedkim_ray.types import Params

KIND = "injection"
FORMAT_VERSION = 1
LIGHT = "light."
"""The injected model's name for the clients' light model; federation names lack it."""


def read_round_start(
    model: InjectedModel, aggregated_url: str, previous_url: str | None
) -> InjectionState:
    """Return the state a round starts from: the last round's, with this round's encoders.

    In the first round all but the encoders starts from the model's own seeded values.
    """
    encoders = Folder.at(aggregated_url).read_tensors("encoders.safetensors")
    if previous_url is None:
        params = {n: p.detach().float().clone() for n, p in model.trained_parameters().items()}
        moments: Params = {}
        step = 0
    else:
        last, _ = read_injection(Folder.at(previous_url))
        params, moments, step = dict(last.params), last.moments, last.step
    params |= {LIGHT + name: value for name, value in encoders.items()}
    _require_complete(model, params)
    return InjectionState(params=params, moments=moments, step=step)


def read_injection(folder: Folder) -> tuple[InjectionState, dict[str, Any]]:
    """Return the state that a published round ended with, and its manifest.

    Raises:
        StorageError: it is not whole or of another format.
    """
    manifest = open_published(folder, KIND, FORMAT_VERSION)
    state = InjectionState(
        params=folder.read_tensors("params.safetensors"),
        moments=folder.read_tensors("moments.safetensors"),
        step=int(manifest["step"]),
    )
    return state, manifest


def encoders_of(params: Params) -> dict[str, Any]:
    """Return the encoders under the names that federation uses."""
    return {n.removeprefix(LIGHT): p for n, p in params.items() if is_encoder(n)}


def publish_round(
    folder: Folder, model: InjectedModel, state: InjectionState, log: StepLog, fingerprint: str
) -> None:
    """Check the state and publish it.

    Raises:
        ParamsMismatchError: a name is missing or a shape wrong.
        TrainingDivergedError: a value is not finite.
    """
    _require_complete(model, state.params)
    for name, value in {**state.params, **state.moments}.items():
        if not bool(torch.isfinite(value).all()):
            raise TrainingDivergedError(
                f"{name!r} is not finite after step {state.step}.",
                "Trained values and moments are finite.",
                "Lower injection.lr; this round was not published.",
            )
    facts = {"step": state.step, "base_fingerprint": fingerprint}
    with publish(folder, KIND, FORMAT_VERSION, **facts) as out:
        out.write_tensors("params.safetensors", state.params)
        out.write_tensors("moments.safetensors", state.moments)
        out.write_json("log.json", asdict(log))
        if (config := adapter_config(model)) is not None:
            out.write_json("adapter_config.json", config)


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
        raise ParamsMismatchError(
            f"Parameters {wrong[:5]} differ in name or shape ({len(wrong)} in all).",
            f"The injected model has {len(expected)} trained parameters.",
            "The run folder and the recipe do not belong together.",
        )
