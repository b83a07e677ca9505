"""What an injection step needs of a worker's memory, and what to change when it does not fit."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fedkim_ray.config import InjectionConfig
from fedkim_ray.errors import EnvironmentProblemError

MASTER_AND_MOMENTS_BYTES = 12
"""float32 master, m and v of one trained number."""


def state_bytes(
    frozen_bytes: int, num_trained: int, itemsize: int, stage: int, num_workers: int
) -> int:
    """Return what weights, gradients and optimizer take of one worker, without activations.

    Args:
        frozen_bytes: Of the frozen base, as it is stored.
        num_trained: Numbers that are trained.
        itemsize: Bytes of a number in the working precision.
        stage: ZeRO stage: 1 shards masters and moments, 2 gradients too, 3 all weights too.
        num_workers: Workers that share.
    """
    shared = [num_workers if stage >= from_stage else 1 for from_stage in (1, 2, 3)]
    optimizer = num_trained * MASTER_AND_MOMENTS_BYTES // shared[0]
    gradients = num_trained * itemsize // shared[1]
    weights = (frozen_bytes + num_trained * itemsize) // shared[2]
    return optimizer + gradients + weights


@contextmanager
def memory_explained(model: nn.Module, injection: InjectionConfig) -> Iterator[None]:
    """Turn an allocator's failure inside the block into an error that says what would fit.

    Raises:
        EnvironmentProblemError: memory ran out.
    """
    try:
        yield
    except RuntimeError as error:  # CUDA's OutOfMemoryError is one too
        if not is_out_of_memory(error):
            raise
        raise _explain(model, injection) from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocator, on a GPU or the CPU, could not serve."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _explain(model: nn.Module, injection: InjectionConfig) -> EnvironmentProblemError:
    sizes = [(getattr(p, "ds_numel", p.numel()), p) for p in model.parameters()]
    trained = sum(n for n, p in sizes if p.requires_grad)
    frozen = sum(n * p.element_size() for n, p in sizes if not p.requires_grad)
    itemsize = next(model.parameters()).element_size()
    now = state_bytes(frozen, trained, itemsize, injection.zero_stage, injection.num_workers)
    parts = injection.num_workers * injection.gradient_accumulation
    part = injection.batch_size // parts
    advice = []
    if part > 1:
        advice.append(
            f"injection.gradient_accumulation={injection.gradient_accumulation * part} (one "
            "example at a time, the same step)"
        )
    if not injection.gradient_checkpointing:
        advice.append("injection.gradient_checkpointing=true")
    for stage in range(injection.zero_stage + 1, 4):
        less = state_bytes(frozen, trained, itemsize, stage, injection.num_workers)
        if less < now:
            advice.append(f"injection.zero_stage={stage} ({less / 2**30:.2f} GiB)")
    if injection.offload != "parameters":
        advice.append("injection.offload=parameters (on a GPU)")
    return EnvironmentProblemError(
        f"A step of {part} examples a worker ran out of memory.",
        f"Weights, gradients and optimizer take {now / 2**30:.2f} GiB of a worker, and "
        "activations the rest.",
        f"What takes less: {'; '.join(advice) or 'a smaller base model'}.",
    )
