"""One process of injection: what it loads for its first round serves all rounds that it trains.

Plain torch and DeepSpeed: ``ray_trainer.py`` starts such processes for a round, and
``ray_workers.py`` lets them stay for a whole run.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fedkim_ray.config import Recipe
from fedkim_ray.data.root import read_card
from fedkim_ray.data.tasks import task_table
from fedkim_ray.injection.base_model import load_base, working_dtype
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.public_data import load_public
from fedkim_ray.injection.round_files import read_round_start
from fedkim_ray.injection.round_training import RoundSetup, RoundTrainer
from fedkim_ray.injection.step_log import StepLog
from fedkim_ray.storage import Claim, Folder
from fedkim_ray.types import TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectionPlan:
    """One round of injection, in plain values."""

    recipe: Recipe
    tasks: tuple[TaskId, ...]
    """Trained tasks whose public data are drawn from."""
    round_index: int
    aggregated_url: str
    """Published encoders of this round."""
    previous_url: str | None
    """The last round's published injection; None in the first round."""
    out_url: str
    """Where this round's injection is published."""
    claim: Claim | None = None
    """The driver's, by which it is published."""


class InjectionWorker:
    """The frozen base, the engine around it and the public data of one process.

    Args:
        recipe: The run's.
        tasks: Trained tasks.
        rank: This process among ``injection.num_workers``; all of them do the same.
    """

    def __init__(self, recipe: Recipe, tasks: tuple[TaskId, ...], rank: int) -> None:
        self.rank = rank
        injection, base = recipe.injection, recipe.base
        _prepare_process(injection.use_gpu, injection.threads_per_worker)
        root = Folder.at(recipe.data.root)
        card = read_card(root)
        dtype = working_dtype(base.dtype, injection.use_gpu)
        loaded = load_base(base.name, dtype, base.revision, base.quantization, injection.use_gpu)
        torch.manual_seed(recipe.seed)
        table = task_table(recipe.tasks)
        self._model = InjectedModel(loaded, injection, recipe.encoders, card.spec, table)
        self._model.to(getattr(torch, dtype))
        setup = RoundSetup(
            injection=injection,
            dtype=dtype,
            seed=recipe.seed,
            total_steps=recipe.federation.rounds * injection.steps_per_round,
            rank=rank,
            fingerprint=loaded.fingerprint,
        )
        samples = load_public(root, [table[task] for task in tasks], card.spec)
        self._trainer = RoundTrainer(self._model, samples, setup)

    def train(self, plan: InjectionPlan, on_step: Callable[[int, float], None]) -> StepLog:
        """Train a round, publish it, and return its losses.

        Args:
            plan: Of the recipe and the tasks that this worker was made for.
            on_step: Called after each step with the step over all rounds and its loss.

        Raises:
            StorageError: another driver took the run over.
        """
        if plan.claim is not None:
            plan.claim.require()
        start = read_round_start(self._model, plan.aggregated_url, plan.previous_url)
        return self._trainer.train(start, Folder.at(plan.out_url, plan.claim), on_step)


def _prepare_process(use_gpu: bool, threads: int) -> None:
    torch.set_num_threads(threads)
    # Young Adam moments are squares of tiny gradients: below 1e-38 a CPU computes in microcode,
    # and the optimizer alone took a third of a step.
    torch.set_flush_denormal(True)
    if use_gpu:
        return
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed.ops

    # Else DeepSpeed compiles this operator on first use, and fails where there is no compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
