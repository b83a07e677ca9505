"""One round of injection as a Ray Train run with DeepSpeed inside.

The run's workers read what the round starts from out of the run folder, and rank 0 publishes
what it ends with there: files are the interface, so a lost worker or driver loses nothing
published.
"""

import os
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedkim_ray.config import InjectionConfig, Recipe
from fedkim_ray.data.root import read_card
from fedkim_ray.data.tasks import task_table
from fedkim_ray.errors import EnvironmentProblemError
from fedkim_ray.injection.base_model import load_base, working_dtype
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.injection.public_data import load_public
from fedkim_ray.injection.round_files import read_round_start
from fedkim_ray.injection.round_training import RoundSetup, train_round
from fedkim_ray.storage import Folder
from fedkim_ray.types import TaskId

OnStep = Callable[[int, float], None]
WORKER_ENV = {"GOMP_SPINCOUNT": "1000"}
"""Read when a worker's OpenMP loads. A thread that waits at a barrier spins this often and then
sleeps: with the default, 300,000, it spins through whole time slices where another process wants
its core, and a step takes ten times as long and more."""


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


def inject_round(plan: InjectionPlan, scratch: str, on_step: OnStep) -> None:
    """Run one round of injection to its published end, in workers that are started for it.

    Args:
        plan: What to do.
        scratch: A folder for Ray Train's own bookkeeping.
        on_step: Called in this process with (step over all rounds, loss).

    Raises:
        EnvironmentProblemError: the workers could not finish; the text has the cause.
    """
    with InjectionRun(_work, {"plan": plan}, plan.recipe.injection, scratch) as run:
        run.wait(on_step)


class InjectionRun:
    """A Ray Train run of injection workers, in a thread so that Ctrl-C reaches the caller's.

    Args:
        work: What every worker calls, with ``config`` and the queue of its ``progress``.
        config: Given to ``work``.
        injection: How many workers, and what each holds.
        scratch: A folder for Ray Train's own bookkeeping.
        max_failures: Times that lost workers are started again; the recipe's where None.
    """

    def __init__(
        self,
        work: Callable[[dict[str, Any]], None],
        config: Mapping[str, Any],
        injection: InjectionConfig,
        scratch: str,
        max_failures: int | None = None,
    ) -> None:
        self._progress = Queue(actor_options=on_this_node())
        self._failure: list[BaseException] = []
        again = injection.max_failures if max_failures is None else max_failures
        trainer = _trainer(work, {**config, "progress": self._progress}, injection, scratch, again)
        self._thread = threading.Thread(target=self._fit, args=[trainer], daemon=True)
        self._thread.start()

    def wait(self, on_step: OnStep, done: Callable[[], bool] = lambda: False) -> None:
        """Pass progress on until the run has ended, or ``done`` says that it suffices.

        Raises:
            EnvironmentProblemError: the workers could not finish.
        """
        while self._thread.is_alive() and not done():
            _drain(self._progress, on_step, timeout_s=0.5)
        _drain(self._progress, on_step, timeout_s=0.0)
        if self._failure:
            raise EnvironmentProblemError(
                f"Injection did not finish: {_root_cause(self._failure[0])}",
                "Its workers run to the end of the round.",
                "Mend the cause and resume the run with --resume; published rounds are kept.",
            ) from self._failure[0]

    def __enter__(self) -> Self:
        """Return the run; it has begun."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the queue; workers that still run end with this process's Ray."""
        self._progress.shutdown(force=True)

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            trainer.fit()
        except BaseException as error:  # told to who waits
            self._failure.append(error)


def on_this_node() -> dict[str, Any]:
    """Return an actor's options: anywhere else, a site's lost node would take the run with it."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": here}


def _trainer(
    work: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    injection: InjectionConfig,
    scratch: str,
    max_failures: int,
) -> TorchTrainer:
    return TorchTrainer(
        work,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=injection.num_workers,
            use_gpu=injection.use_gpu,
            resources_per_worker={
                "CPU": injection.cpus_per_worker,
                **({"GPU": 1} if injection.use_gpu else {}),
            },
        ),
        torch_config=TorchConfig(backend="nccl" if injection.use_gpu else "gloo"),
        run_config=RunConfig(  # type: ignore[call-arg]  # mypy reads Ray Train 1; this is 2
            # Ray Train restores a repeated name: every attempt has one of its own.
            name=f"injection-{uuid.uuid4().hex[:8]}",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=max_failures),
            worker_runtime_env={"env_vars": WORKER_ENV},
        ),
    )


def _drain(progress: Queue, on_step: OnStep, timeout_s: float) -> None:
    try:
        while True:
            step, loss = progress.get(block=timeout_s > 0, timeout=timeout_s or None)
            on_step(step, loss)
    except Empty:
        return


def _root_cause(error: BaseException) -> str:
    """Return the last line of what went wrong first, in one of the workers."""
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    worst = next(iter(failures.values()), error)
    cause = getattr(worst, "cause", None) or getattr(worst, "base_exc", None) or worst
    return str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__


def _work(config: dict[str, Any]) -> None:
    train_plan(config["plan"], config["progress"])


def train_plan(plan: InjectionPlan, progress: Queue) -> None:
    """Train a round in one worker; all ranks run this."""
    recipe, injection = plan.recipe, plan.recipe.injection
    rank = ray.train.get_context().get_world_rank()
    _prepare_process(injection.use_gpu, injection.threads_per_worker)

    root = Folder.at(recipe.data.root)
    card = read_card(root)
    dtype = working_dtype(recipe.base.dtype, injection.use_gpu)
    base = load_base(recipe.base.name, dtype, recipe.base.revision, recipe.base.quantization)
    torch.manual_seed(recipe.seed)
    model = InjectedModel(base, injection, recipe.encoders, card.spec, task_table(recipe.tasks))
    model.to(getattr(torch, dtype))
    start = read_round_start(model, plan.aggregated_url, plan.previous_url)
    samples = load_public(root, plan.tasks, card.spec)
    setup = RoundSetup(
        injection=injection,
        dtype=dtype,
        seed=recipe.seed,
        total_steps=recipe.federation.rounds * injection.steps_per_round,
        rank=rank,
        out=Folder.at(plan.out_url),
        fingerprint=base.fingerprint,
    )
    log = train_round(
        model,
        start,
        samples,
        setup,
        on_step=lambda step, loss: progress.put((step, loss)) if rank == 0 else None,
    )
    ray.train.report({"loss": log.loss[-1]})


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
