"""Trained parameters and Adam moments, into and out of a live DeepSpeed engine.

The optimizer's float32 master copy is the truth: values written into the module alone are back
at their old state after the next step. So everything enters and leaves through the masters, as
whole tensors by parameter name, the same under every ZeRO stage and number of workers.

Every function here is collective: all ranks call it in the same order.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's m and v under torch's names."""
LOSS_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What DeepSpeed's loss scaling remembers, under its names."""


def read_masters(engine: Any, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return every parameter's float32 master value, whole, on CPU."""
    from deepspeed.utils import safe_get_full_fp32_param

    unsharded = _unsharded_masters(engine)
    values = {}
    for name, parameter in parameters.items():
        whole = _is_sharded(parameter)
        master = safe_get_full_fp32_param(parameter) if whole else unsharded(parameter)
        values[name] = master.detach().float().cpu().clone()
    return values


def write_masters(
    engine: Any, parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]
) -> None:
    """Write float32 values into the masters; the module takes them over at the next step.

    The module must already hold the same values in its own precision: load it before the
    engine is built, or by ``put_params``.
    """
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    unsharded = _unsharded_masters(engine)
    for name, parameter in parameters.items():
        value = values[name].float().to(parameter.device)
        if _is_cut(parameter):
            safe_set_local_fp32_param(parameter, _own_part(parameter, value))
        elif _is_sharded(parameter):
            safe_set_full_fp32_param(parameter, value)
        else:
            unsharded(parameter).data.copy_(value)


def read_moments(engine: Any, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return Adam's m and v of every parameter as ``<moment>/<name>``, float32 on CPU."""
    from deepspeed.utils import safe_get_full_optimizer_state

    unsharded, inner = _unsharded_masters(engine), _inner_optimizer(engine)
    moments = {}
    for name, parameter in parameters.items():
        for moment in MOMENTS:
            if _is_sharded(parameter):
                value = safe_get_full_optimizer_state(parameter, moment)
            else:
                value = inner.state[unsharded(parameter)][moment]
            moments[f"{moment}/{name}"] = value.detach().float().cpu().clone()
    return moments


def write_moments(
    engine: Any, parameters: Mapping[str, nn.Parameter], moments: Mapping[str, Tensor]
) -> None:
    """Let Adam go on from saved moments; a parameter without any starts afresh.

    Args:
        engine: A DeepSpeed engine. Each of its parameter groups says in ``adam_steps`` how many
            steps its moments have seen, for Adam's bias correction.
        parameters: All trained parameters.
        moments: As ``read_moments`` returns them; may cover a part of the parameters.
    """
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    _clear_states(engine)
    unsharded, inner = _unsharded_masters(engine), _inner_optimizer(engine)
    for name, parameter in parameters.items():
        for moment in MOMENTS:
            value = moments.get(f"{moment}/{name}")
            if value is None:
                continue
            value = value.to(parameter.device)
            if _is_cut(parameter):
                safe_set_local_optimizer_state(parameter, _own_part(parameter, value), moment)
            elif _is_sharded(parameter):
                safe_set_full_optimizer_state(parameter, value, moment)
            else:
                inner.state[unsharded(parameter)][moment].copy_(value)
    for flat, group in _flat_masters(engine):
        # A fused kernel reads it where the parameters are.
        inner.state[flat]["step"] = torch.tensor(float(group["adam_steps"]), device=flat.device)


def read_adam_steps(engine: Any) -> dict[str, int]:
    """Return the steps that each named parameter group has taken, skipped ones left out."""
    inner = _inner_optimizer(engine)
    return {g["name"]: int(inner.state[flat]["step"]) for flat, g in _flat_masters(engine)}


def set_adam_steps(engine: Any, seen: Mapping[str, int]) -> None:
    """Say how many steps the moments of each named group have seen; see ``write_moments``."""
    for group in _inner_optimizer(engine).param_groups:
        group["adam_steps"] = seen[group["name"]]


def put_params(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Copy whole values into the module; under stage 3 rank 0's reach every shard."""
    import deepspeed

    with (
        deepspeed.zero.GatheredParameters(list(parameters.values()), modifier_rank=0),
        torch.no_grad(),
    ):
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


def read_loss_scale(engine: Any) -> dict[str, float]:
    """Return where float16's loss scaling stands; empty in other precisions."""
    scaler = _loss_scaler(engine)
    return {name: getattr(scaler, name) for name in LOSS_SCALER if hasattr(scaler, name)}


def write_loss_scale(engine: Any, values: Mapping[str, float]) -> None:
    """Let loss scaling go on from ``values``; where there are none it starts afresh."""
    scaler = _loss_scaler(engine)
    for name, value in values.items():
        if hasattr(scaler, name):
            setattr(scaler, name, value)


def _loss_scaler(engine: Any) -> Any:
    """Return what scales losses dynamically, None where nothing does."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    return scaler if getattr(scaler, "dynamic", False) else None


def _is_sharded(parameter: nn.Parameter) -> bool:
    """Whether ZeRO keeps this parameter's master, whole or in parts (stage 0 does not)."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def _is_cut(parameter: nn.Parameter) -> bool:
    """Whether stage 3 has cut the parameter itself into one part a rank."""
    return hasattr(parameter, "ds_id")


def _own_part(parameter: Any, value: Tensor) -> Tensor:
    """Return this rank's part of a whole value; the last rank's is filled up with zeros.

    DeepSpeed's own way of setting a whole value forgets the filling, and refuses a parameter whose
    size the number of ranks does not divide.
    """
    import deepspeed.comm as dist

    size = parameter.ds_tensor.numel()
    rank = dist.get_rank(group=parameter.ds_process_group)
    part = value.flatten()[size * rank : size * (rank + 1)]
    return nn.functional.pad(part, (0, size - part.numel()))


def _unsharded_masters(engine: Any) -> Callable[[nn.Parameter], Tensor]:
    """Return where stage 0 keeps masters: in float32 the parameter is its own."""
    low = getattr(engine.optimizer, "fp16_groups", [])
    high = getattr(engine.optimizer, "fp32_groups", [])
    pairs = zip(_flatten(low), _flatten(high), strict=False)
    master_of = {id(parameter): master for parameter, master in pairs}
    return lambda parameter: master_of.get(id(parameter), parameter)


def _flatten(groups: Iterable[Iterable[Tensor]]) -> list[Tensor]:
    return [p for group in groups for p in group]


def _inner_optimizer(engine: Any) -> torch.optim.Optimizer:
    """Return the torch optimizer inside DeepSpeed's wrapper."""
    optimizer = engine.optimizer
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return cast(torch.optim.Optimizer, optimizer)


def _clear_states(engine: Any) -> None:
    """Make Adam's state, which torch and DeepSpeed make lazily in the first step; or clear it.

    DeepSpeed holds views into the moments, so those that are there stay where they are.
    """
    inner = _inner_optimizer(engine)
    for flat, _ in _flat_masters(engine):
        state = inner.state[flat]
        for moment in MOMENTS:
            there = state.get(moment)
            state[moment] = torch.zeros_like(flat.data) if there is None else there.zero_()
    link = getattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        link()


def _flat_masters(engine: Any) -> list[tuple[Tensor, dict[str, Any]]]:
    """Return every tensor that the torch optimizer steps, with its parameter group.

    Stage 3 hands them to the optimizer for the length of a step only, and keeps them in between.
    """
    groups = _inner_optimizer(engine).param_groups
    kept = getattr(engine.optimizer, "fp32_partitioned_groups_flat", None)
    if kept is None:
        return [(flat, group) for group in groups for flat in group["params"]]
    group_of = engine.optimizer.sub_group_to_group_id
    return [(flat, groups[group_of[i]]) for i, flat in enumerate(kept)]
