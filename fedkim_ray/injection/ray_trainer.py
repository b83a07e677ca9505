"""One round of injection as a Ray Train run with DeepSpeed inside.

The run's workers read what the round starts from out of the run folder, and rank 0 publishes
what it ends with there: files are the interface, so a lost worker or driver loses nothing
published.
"""

import re
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedkim_ray.config import InjectionConfig
from fedkim_ray.errors import EnvironmentProblemError
from fedkim_ray.injection.worker import InjectionPlan, InjectionWorker
from fedkim_ray.ray_lean import LeanTrainer
from fedkim_ray.ray_placement import PlacementFreed
from fedkim_ray.storage import Folder, is_published

OnStep = Callable[[int, float], None]
WORKER_ENV = {"GOMP_SPINCOUNT": "20000"}
"""Read when a worker's OpenMP loads. A thread that waits at a barrier spins this often and then
sleeps: with the default, 300,000, it spins through whole time slices where another process wants
its core; with a thousand it sleeps at every barrier, and waking takes longer than the wait."""
LOST_CONNECTION = re.compile(
    "connection (closed|reset|refused)|broken pipe|remote process exit", re.IGNORECASE
)
"""What Gloo and NCCL say in a worker whose peer is gone: the peer's own words are the cause."""


def inject_round(plan: InjectionPlan, scratch: str, on_step: OnStep) -> None:
    """Run one round of injection to its published end, in workers that are started for it.

    Args:
        plan: What to do.
        scratch: A folder for Ray Train's own bookkeeping.
        on_step: Called in this process with (step over all rounds, loss).

    Raises:
        EnvironmentProblemError: the workers could not finish; the text has the cause.
    """
    injection = plan.recipe.injection
    run = InjectionRun(_work, {"plan": plan}, injection, scratch, injection.max_failures)
    with closing(run):
        run.wait(on_step)


class InjectionRun:
    """A Ray Train run of injection workers, in a thread so that Ctrl-C reaches the caller's.

    Args:
        work: What every worker calls, with ``config`` and the queue of its ``progress``.
        config: Given to ``work``.
        injection: How many workers, and what each holds.
        scratch: A folder for Ray Train's own bookkeeping.
        max_failures: Times that lost workers are started again.
    """

    def __init__(
        self,
        work: Callable[[dict[str, Any]], None],
        config: Mapping[str, Any],
        injection: InjectionConfig,
        scratch: str,
        max_failures: int,
    ) -> None:
        self._progress = Queue(actor_options=on_this_node())
        self._failure: list[BaseException] = []
        told = {**config, "progress": self._progress}
        trainer = _trainer(work, told, injection, scratch, max_failures)
        self._thread = threading.Thread(target=self._fit, args=[trainer], daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether no worker runs any more."""
        return not self._thread.is_alive()

    def wait(self, on_step: OnStep, done: Callable[[], bool] = lambda: False) -> None:
        """Pass progress on until the run has ended, or ``done`` says that it suffices.

        Raises:
            EnvironmentProblemError: the workers could not finish.
        """
        while not self.is_over and not done():
            _drain(self._progress, on_step, timeout_s=0.5)
        _drain(self._progress, on_step, timeout_s=0.0)
        if self._failure and not done():
            raise EnvironmentProblemError(
                f"Injection's workers failed: {_root_cause(self._failure[0])}",
                "Its workers run to the end of the round.",
                "Mend the cause and resume the run with --resume; published rounds are kept.",
            ) from self._failure[0]

    def close(self) -> None:
        """Let go of the queue; workers that still run end with this process's Ray."""
        self._progress.shutdown(force=True)

    def _fit(self, trainer: LeanTrainer) -> None:
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
) -> LeanTrainer:
    return LeanTrainer(
        work,
        train_loop_config=config,
        scaling_config=ScalingConfig(  # mypy reads Ray Train 1; this is 2
            num_workers=injection.num_workers,
            use_gpu=injection.use_gpu,
            resources_per_worker={
                "CPU": injection.cpus_per_worker,
                **({"GPU": 1} if injection.use_gpu else {}),
            },
            label_selector=injection.worker_selector or None,  # type: ignore[call-arg]
        ),
        backend_config=TorchConfig(backend="nccl" if injection.use_gpu else "gloo"),
        run_config=RunConfig(  # type: ignore[call-arg]
            # Ray Train restores a repeated name: every attempt has one of its own.
            name=f"injection-{uuid.uuid4().hex[:8]}",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=max_failures),
            callbacks=[PlacementFreed()],  # type: ignore[list-item]
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
    """Return the last line of what went wrong in the first worker that did not lose another."""
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    cause = min(failures.values(), key=_is_lost_connection, default=error)
    return str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__


def _is_lost_connection(error: BaseException) -> bool:
    return LOST_CONNECTION.search(str(error)) is not None


def _work(config: dict[str, Any]) -> None:
    plan = config["plan"]
    if not is_published(Folder.at(plan.out_url)):  # workers may be lost just after its end
        train_plan(worker_of(plan), plan, config["progress"])


def worker_of(plan: InjectionPlan) -> InjectionWorker:
    """Return what this process of a Ray Train run is in injection."""
    rank = ray.train.get_context().get_world_rank()
    return InjectionWorker(plan.recipe, plan.tasks, rank)


def train_plan(worker: InjectionWorker, plan: InjectionPlan, progress: Queue) -> None:
    """Train a round in one worker; all ranks run this."""
    log = worker.train(
        plan,
        on_step=lambda step, loss: progress.put((step, loss)) if worker.rank == 0 else None,
    )
    ray.train.report({"loss": log.loss[-1]})
