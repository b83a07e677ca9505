"""One round of injection: some optimizer steps of the injected model on public data.

Plain torch and DeepSpeed, no Ray: ``ray_trainer.py`` wraps this once.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from fedkim_ray.config import InjectionConfig
from fedkim_ray.data.loading import Batch, SampleSet, collate
from fedkim_ray.errors import TrainingDivergedError
from fedkim_ray.injection.deepspeed_config import deepspeed_config
from fedkim_ray.injection.draws import Draw, draw_batches
from fedkim_ray.injection.engine_state import (
    put_params,
    read_adam_steps,
    read_loss_scale,
    read_masters,
    read_moments,
    set_adam_steps,
    write_loss_scale,
    write_masters,
    write_moments,
)
from fedkim_ray.injection.memory import memory_explained
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.step_log import StepLog
from fedkim_ray.types import TaskId

MAX_BAD_STEPS = 3
"""Steps in a row with a NaN or infinite loss before injection gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectionState:
    """All that injection carries from round to round; a checkpoint is exactly this."""

    params: Mapping[str, Tensor]
    """Trained parameters by name, float32."""
    moments: Mapping[str, Tensor]
    """Adam moments; at a round's end without the encoders', which restart each round."""
    step: int
    """Steps taken over all rounds."""
    steps_in_round: int = 0
    """Those of an unfinished round among them; 0 at a round's end."""
    adam_steps: Mapping[str, int] = field(default_factory=dict)
    """Steps that the moments of encoders and of the rest have seen: float16 skips some."""
    loss_scale: Mapping[str, float] = field(default_factory=dict)
    """Where float16's loss scaling stands; empty in other precisions."""


def is_encoder(name: str) -> bool:
    """Whether a trained parameter belongs to an encoder, which clients average each round."""
    return name.startswith("light.encoders.")


def learning_rate_factor(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Rise linearly over the warm-up, then fall linearly to 0 at the end of the whole run.

    Args:
        step: The step about to be taken, from 0.
        total_steps: Steps of all rounds together.
        warmup_fraction: Share of them that is warm-up.
    """
    warmup = max(1, round(warmup_fraction * total_steps))
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup))


def build_engine(
    model: InjectedModel, state: InjectionState | None, injection: InjectionConfig, dtype: str
) -> Any:
    """Return a DeepSpeed engine that starts from ``state``, to the bit in its masters."""
    import deepspeed

    if state is not None:
        load_params(model, state.params)
    start = state or InjectionState(params={}, moments={}, step=0)
    trained = model.trained_parameters()
    precise = {n: p.detach().float().clone() for n, p in trained.items()} | dict(start.params)
    optimizer = torch.optim.AdamW(
        _parameter_groups(trained, injection),
        lr=injection.lr,
        betas=injection.betas,
        fused=True,  # one pass over the masters and moments, not one an operation
        weight_decay=injection.weight_decay,
    )
    for frozen in (p for p in model.parameters() if not p.requires_grad):
        # DeepSpeed's mark of what it need not send to every rank. Each has read the same files, and
        # the pages of a file that nobody writes to are in a node's memory once.
        frozen.ds_optim_param = True  # type: ignore[attr-defined]
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=list(trained.values()),
        optimizer=optimizer,
        config=deepspeed_config(injection, dtype),
    )
    _enter(engine, trained, precise, start)
    return engine


def restart_engine(engine: Any, model: InjectedModel, state: InjectionState) -> None:
    """Let a live engine go on from ``state``, to the bit as one that was built for it; collective.

    Args:
        engine: From ``build_engine``, between two steps.
        model: The module inside it.
        state: Where to go on.
    """
    trained = model.trained_parameters()
    put_params(trained, state.params)
    _enter(engine, trained, state.params, state)


def _enter(
    engine: Any,
    trained: Mapping[str, nn.Parameter],
    precise: Mapping[str, Tensor],
    state: InjectionState,
) -> None:
    """Write masters, moments and counters: the optimizer would undo what the module alone has."""
    seen = {"others": state.step, "encoders": state.steps_in_round, **state.adam_steps}
    set_adam_steps(engine, seen)
    write_masters(engine, trained, precise)
    write_moments(engine, trained, state.moments)
    write_loss_scale(engine, state.loss_scale)


def load_params(model: InjectedModel, params: Mapping[str, Tensor]) -> None:
    """Copy trained parameters into the module, before an engine is built around it."""
    with torch.no_grad():
        for name, parameter in model.trained_parameters().items():
            parameter.copy_(params[name])


def read_state(
    engine: Any, model: InjectedModel, step: int, steps_in_round: int = 0
) -> InjectionState:
    """Return what the next round, or the rest of this one, starts from; collective.

    Args:
        engine: The live engine.
        model: The module inside it.
        step: Steps taken over all rounds.
        steps_in_round: Those of an unfinished round; 0 at a round's end.
    """
    trained = model.trained_parameters()
    kept = {n: p for n, p in trained.items() if steps_in_round or not is_encoder(n)}
    seen = read_adam_steps(engine)
    return InjectionState(
        params=read_masters(engine, trained),
        moments=read_moments(engine, kept),
        step=step,
        steps_in_round=steps_in_round,
        adam_steps=seen if steps_in_round else {**seen, "encoders": 0},
        loss_scale=read_loss_scale(engine),
    )


def train_steps(
    engine: Any,
    model: InjectedModel,
    samples: Mapping[TaskId, SampleSet],
    injection: InjectionConfig,
    *,
    seed: int,
    first_step: int,
    num_steps: int,
    total_steps: int,
    rank: int,
    log: StepLog,
    on_step: Callable[[int, float], None],
) -> None:
    """Take optimizer steps and add their losses to ``log``.

    Args:
        engine: From ``build_engine``.
        model: The module inside the engine.
        samples: Public examples by task.
        injection: The recipe's section.
        seed: Seed of the run; with the step it fixes the batches and the dropout.
        first_step: Steps taken before, over all rounds.
        num_steps: Steps to take.
        total_steps: Steps of all rounds, for the learning rate.
        rank: This worker's part of every batch.
        log: Losses of the round so far.
        on_step: Called after each step with the step and its loss.

    Raises:
        TrainingDivergedError: the loss was not finite in several steps in a row.
        EnvironmentProblemError: a step does not fit into memory.
    """
    sizes = {task: len(s) for task, s in samples.items()}
    draws = draw_batches(sizes, injection.task_weights, injection.batch_size, seed, first_step)
    model.train()
    num_bad = 0
    for offset, drawn in enumerate(islice(draws, num_steps)):
        step = first_step + offset
        torch.manual_seed(1_000_003 * seed + 1009 * step + rank)
        _set_learning_rates(engine, step, total_steps, injection)
        with memory_explained(model, injection):
            told = _one_step(engine, model, _parts(drawn, samples, injection, rank, model))
        _record(log, step, drawn, _of_all_ranks(told, injection.num_workers))
        num_bad = 0 if math.isfinite(log.loss[-1]) else num_bad + 1
        if num_bad >= MAX_BAD_STEPS:
            raise TrainingDivergedError(
                f"The injection loss was {log.loss[-1]} in {num_bad} steps up to step {step}.",
                "A loss is finite.",
                "Lower injection.lr, or use base.dtype float32; nothing was published.",
            )
        on_step(step, log.loss[-1])


def _one_step(engine: Any, model: InjectedModel, parts: list[Batch]) -> Tensor:
    """Run forward and backward over each part and step once.

    Returns:
        (examples, 1 + P) float32: each example's loss and, where it is routed, expert weights.
    """
    told = []
    for part in parts:
        try:
            mean, each_B = engine(part)
            engine.backward(mean)
            alpha_BP = model.gate.alpha_BP if model.gate else each_B.new_empty(len(each_B), 0)
            told.append(torch.cat([each_B[:, None].float(), alpha_BP], 1))
        finally:
            model.release()
        engine.step()
    return torch.cat(told)


def _of_all_ranks(mine_BX: Tensor, num_workers: int) -> Tensor:
    """Return what every worker told of its examples, in the order in which they were drawn.

    Else rank 0's log would lack the tasks that its share of the batches never meets. Collective.
    """
    if num_workers == 1:
        return mine_BX.cpu()
    import deepspeed.comm as dist

    theirs = [torch.empty_like(mine_BX) for _ in range(num_workers)]
    dist.all_gather(theirs, mine_BX.contiguous())
    # Rank r's example i was draw number i * num_workers + r.
    return torch.stack(theirs, 1).flatten(0, 1).cpu()


def _record(log: StepLog, step: int, drawn: list[Draw], told_BX: Tensor) -> None:
    tasks, losses = [draw.task for draw in drawn], told_BX[:, 0].tolist()
    alpha_BP = told_BX[:, 1:]
    routed = alpha_BP if alpha_BP.shape[1] else None
    log.add(step, list(zip(tasks, losses, strict=True)), routed)


def _parts(
    drawn: list[Draw],
    samples: Mapping[TaskId, SampleSet],
    injection: InjectionConfig,
    rank: int,
    model: InjectedModel,
) -> list[Batch]:
    """Return this rank's share of a batch, in ``gradient_accumulation`` parts."""
    mine = drawn[rank :: injection.num_workers]
    size = len(mine) // injection.gradient_accumulation
    examples = [samples[d.task][d.index] for d in mine]
    return [
        collate(examples[start : start + size], model.light.spec)
        for start in range(0, len(examples), size)
    ]


def _parameter_groups(
    trained: Mapping[str, nn.Parameter], injection: InjectionConfig
) -> list[dict[str, Any]]:
    """Encoders learn at a rate of their own and restart their moments each round."""
    encoders = [p for n, p in trained.items() if is_encoder(n)]
    others = [p for n, p in trained.items() if not is_encoder(n)]
    groups = {"others": (others, injection.lr), "encoders": (encoders, injection.encoder_lr)}
    return [
        {"name": name, "params": params, "base_lr": lr} for name, (params, lr) in groups.items()
    ]


def _set_learning_rates(
    engine: Any, step: int, total_steps: int, injection: InjectionConfig
) -> None:
    factor = learning_rate_factor(step, total_steps, injection.warmup_fraction)
    for group in engine.optimizer.param_groups:
        group["lr"] = factor * group["base_lr"]
