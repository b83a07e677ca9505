"""A few optimizer steps on a few examples, in plain torch: one process, no engine, no Ray."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fedkim_ray.config import InjectionConfig
from fedkim_ray.data.loading import SampleSet, collate, epoch_batches
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.training import is_encoder, learning_rate_factor

NEW_PARTS = ("light", "aligners", "router")
"""Modules that injection adds beside the experts in the language model's layers."""


def tune(
    model: InjectedModel,
    samples: SampleSet,
    rows: Sequence[int],
    injection: InjectionConfig,
    steps: int,
    batch_size: int,
    seed: int,
) -> None:
    """Take ``steps`` optimizer steps on some rows, in place; without rows, none.

    Rates, warm-up and clipping are those that the bundle was injected with.
    """
    if not rows:
        return
    trained = injected_parameters(model)
    optimizer = _optimizer(trained, injection)
    examples, order = [samples[row] for row in rows], torch.Generator().manual_seed(seed)
    batches: list[list[int]] = []
    for p in trained.values():
        p.requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.train()
        for step in range(steps):
            batches = batches or [*epoch_batches(len(examples), batch_size, order)]
            factor = learning_rate_factor(step, steps, injection.warmup_fraction)
            for group in optimizer.param_groups:
                group["lr"] = factor * group["base_lr"]
            try:
                loss, _ = model(collate([examples[i] for i in batches.pop(0)], samples.spec))
                loss.backward()
            finally:
                model.release()
            nn.utils.clip_grad_norm_(trained.values(), injection.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()
    model.eval().requires_grad_(False)


def injected_parameters(model: InjectedModel) -> dict[str, nn.Parameter]:
    """Return all parameters that injection trained, whether they take gradients now or not."""
    return {
        name: p
        for name, p in model.named_parameters()
        if name.split(".")[0] in NEW_PARTS or "lora_" in name
    }


@torch.no_grad()
def restore(model: InjectedModel, start: Mapping[str, Tensor]) -> None:
    """Give ``injected_parameters`` the values of ``start``."""
    for name, p in injected_parameters(model).items():
        p.copy_(start[name])
    model.forget_routes()


def _optimizer(
    trained: Mapping[str, nn.Parameter], injection: InjectionConfig
) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [
            {"params": [p], "base_lr": injection.encoder_lr if is_encoder(n) else injection.lr}
            for n, p in trained.items()
        ],
        betas=injection.betas,
        weight_decay=injection.weight_decay,
    )
