"""One round of injection from its start, or its last checkpoint, to its published end.

Plain torch and DeepSpeed, run by every rank; rank 0 writes the files. Every save is checked
before it is published: names, shapes, finite values, what the files read back as, and whether the
values in them answer a probe as the live model does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fedkim_ray.config import InjectionConfig
from fedkim_ray.data.loading import SampleSet, collate
from fedkim_ray.errors import BaseModelError
from fedkim_ray.injection.checkpoints import Checkpoints
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.probe import Probe
from fedkim_ray.injection.round_files import publish_round
from fedkim_ray.injection.step_log import StepLog
from fedkim_ray.injection.training import (
    InjectionState,
    build_engine,
    read_state,
    restart_engine,
    train_steps,
)
from fedkim_ray.storage import Folder
from fedkim_ray.types import Params, TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSetup:
    """What rounds need to know beside the model."""

    injection: InjectionConfig
    dtype: str
    seed: int
    total_steps: int
    """Of all rounds, for the learning rate."""
    rank: int
    fingerprint: str
    """Of the base model."""


class RoundTrainer:
    """Trains one round after another with one model and one engine around it.

    Every round starts from a state in files and ends in one, so a process that trains its third
    round does as one that was started for it.

    Args:
        model: A fresh model.
        samples: Public examples by task.
        setup: The rest.
    """

    def __init__(
        self, model: InjectedModel, samples: Mapping[TaskId, SampleSet], setup: RoundSetup
    ) -> None:
        self._model, self._samples, self._setup = model, samples, setup
        self._engine: Any = None

    def train(
        self, start: InjectionState, out: Folder, on_step: Callable[[int, float], None]
    ) -> StepLog:
        """Train one round, publish it, and return its losses; all ranks call it.

        Args:
            start: What the round starts from, if no checkpoint of it is there.
            out: Where the round is published.
            on_step: Called after each step, in every rank, with the step and its loss.
        """
        model, setup, injection = self._model, self._setup, self._setup.injection
        checkpoints = Checkpoints.beside(out, injection.num_workers)
        state, log = checkpoints.latest(model) or (start, StepLog())
        engine = self._engine_at(state)
        saver = _Saver(engine, model, self._samples, setup, checkpoints, start.step, log)

        def after_step(step: int, loss: float) -> None:
            done = step + 1 - start.step
            if done % injection.checkpoint_steps == 0 and done < injection.steps_per_round:
                saver.save_checkpoint(step + 1)
            on_step(step, loss)

        train_steps(
            engine,
            model,
            self._samples,
            injection,
            seed=setup.seed,
            first_step=state.step,
            num_steps=injection.steps_per_round - state.steps_in_round,
            total_steps=setup.total_steps,
            rank=setup.rank,
            log=log,
            on_step=after_step,
        )
        saver.save_round(out, start.step + injection.steps_per_round)
        return log

    def _engine_at(self, state: InjectionState) -> Any:
        """Return the engine at ``state``, built in the first round."""
        if self._engine is None:
            setup = self._setup
            self._engine = build_engine(self._model, state, setup.injection, setup.dtype)
            require_one_base(setup.fingerprint, self._engine.device)
        else:
            restart_engine(self._engine, self._model, state)
        return self._engine


def require_one_base(fingerprint: str, device: torch.device) -> None:
    """Hold this rank's base model against rank 0's: nobody sends it. Collective.

    Args:
        fingerprint: SHA-256 of this rank's, in hexadecimal digits.
        device: Where ranks exchange tensors.

    Raises:
        BaseModelError: another one is here.
    """
    import deepspeed.comm as dist

    mine = torch.tensor([*bytes.fromhex(fingerprint)], dtype=torch.uint8, device=device)
    first = mine.clone()
    dist.broadcast(first, 0)
    if not torch.equal(mine, first):
        raise BaseModelError(
            f"This injection worker's base model has SHA-256 {fingerprint}.",
            f"All workers load one base model; the first's is {bytes(first.tolist()).hex()}.",
            "Give every node the same folder, or name a revision in base.revision.",
        )


class _Saver:
    """Checked saves of one round; collective over all ranks."""

    def __init__(
        self,
        engine: Any,
        model: InjectedModel,
        samples: Mapping[TaskId, SampleSet],
        setup: RoundSetup,
        checkpoints: Checkpoints,
        round_start: int,
        log: StepLog,
    ) -> None:
        self.engine, self.model, self.setup = engine, model, setup
        self.checkpoints, self.round_start, self.log = checkpoints, round_start, log
        first_of_each = [s[0] for s in samples.values()]
        self.probe = Probe(engine, model, collate(first_of_each, model.light.spec))

    def save_checkpoint(self, step: int) -> None:
        """Publish an unfinished round after ``step`` steps over all rounds."""
        state = read_state(self.engine, self.model, step, step - self.round_start)
        self._save(state, lambda v: self.checkpoints.publish(self.model, state, self.log, v))

    def save_round(self, out: Folder, step: int) -> None:
        """Publish the round's end; its checkpoints go."""
        state = read_state(self.engine, self.model, step)
        fingerprint = self.setup.fingerprint
        self._save(state, lambda v: publish_round(out, self.model, state, self.log, fingerprint, v))
        if self.setup.rank == 0:
            self.checkpoints.clear()

    def _save(
        self, state: InjectionState, publish: Callable[[Callable[[Params], None]], None]
    ) -> None:
        """Let rank 0 publish; the probe is asked by all ranks before the manifest is written."""
        before = self.probe.logits()

        def verify(saved: Params) -> None:
            self.probe.require_same(before, saved)

        if self.setup.rank == 0:
            publish(verify)
        else:
            verify(state.params)
