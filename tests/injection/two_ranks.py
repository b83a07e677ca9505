"""What the processes of ``test_two_ranks.py`` run: two steps under some ZeRO stages, or rounds."""

import os
import signal
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from fedkim_ray.data.demo.tiny import SPEC
from fedkim_ray.data.loading import SampleSet, load_samples
from fedkim_ray.errors import BaseModelError
from fedkim_ray.injection.round_training import require_one_base
from fedkim_ray.injection.step_log import StepLog
from fedkim_ray.injection.training import build_engine, read_state, train_steps
from fedkim_ray.injection.worker import InjectionPlan, InjectionWorker
from fedkim_ray.storage import Folder
from tests.injection.tiny import tiny_injection, tiny_model

TASKS = ("covid19", "mortality")
NUM_STEPS = 2


def join(rank: int, num_workers: int, port: int) -> None:
    """Become one rank of a process group, without compiling anything."""
    torch.set_num_threads(1)
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_workers, "MASTER_PORT": port}
    os.environ.update({k: str(v) for k, v in world.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", DS_ACCELERATOR="cpu")
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo")


def work(
    rank: int, num_workers: int, stages: tuple[int, ...], data_url: str, out: str, port: int
) -> None:
    """Train under each stage; rank 0 writes what it ended with.

    Tasks alternate within a batch, so of two ranks one draws images alone and the other ICU series
    alone: neither runs an encoder of the other's on data.
    """
    join(rank, num_workers, port)
    root = Folder.at(data_url)
    samples = {t: load_samples(root / "public" / t / "train", SPEC) for t in TASKS}
    for stage in stages:
        params, log, copied = train(stage, rank, num_workers, samples)
        name = f"stage{stage}-of{num_workers}"
        Folder.at(out).write_json(f"{name}-copied{rank}.json", copied)
        if rank == 0:
            Folder.at(out).write_tensors(f"{name}.safetensors", params)
            Folder.at(out).write_json(f"{name}.json", asdict(log))


def train(
    stage: int, rank: int, num_workers: int, samples: Mapping[str, SampleSet]
) -> tuple[dict[str, Tensor], StepLog, int]:
    injection = tiny_injection(
        stage, num_workers=num_workers, batch_size=4, steps_per_round=NUM_STEPS
    )
    m3oe = injection.m3oe.model_copy(update={"dropout": 0.0})  # ranks draw it differently
    injection = injection.model_copy(update={"m3oe": m3oe})
    model = tiny_model(injection, "float32", encoder_dropout=0.0)
    engine = build_engine(model, None, injection, "float32")
    log = StepLog()
    train_steps(
        engine,
        model,
        samples,
        injection,
        seed=0,
        first_step=0,
        num_steps=NUM_STEPS,
        total_steps=NUM_STEPS,
        rank=rank,
        log=log,
        on_step=lambda step, loss: None,
    )
    copied = copied_kib(".safetensors")
    return dict(read_state(engine, model, NUM_STEPS).params), log, copied


def inject(rank: int, plans: list[InjectionPlan], killed_after: int | None, port: int) -> None:
    """Train rounds as one of two workers, of which the second may be killed after some step.

    Which steps were taken is written beside each round.
    """
    join(rank, 2, port)
    for plan in plans:
        told: list[int] = []

        def on_step(step: int, _loss: float, told: list[int] = told) -> None:
            told.append(step)
            if rank == 1 and len(told) == killed_after:
                os.kill(os.getpid(), signal.SIGKILL)  # as a lost node would

        InjectionWorker(plan.recipe, plan.tasks, rank).train(plan, on_step)
        Folder.at(f"{plan.out_url}.told").write_json(f"{rank}.json", told)


def copied_kib(ending: str) -> int:
    """Return how much of the files that are mapped into memory this process has to itself."""
    copied, mapped = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            mapped = line.endswith(ending)
        elif mapped and words[0] == "Private_Dirty:":
            copied += int(words[1])
    return copied


def ask_for_one_base(rank: int, out: str, port: int) -> None:
    """Say another base model in each rank; write what is told of it."""
    join(rank, 2, port)
    told = ""
    try:
        require_one_base(f"0{rank}" * 32, torch.device("cpu"))
    except BaseModelError as error:
        told = str(error)
    Folder.at(out).write_json(f"base{rank}.json", told)


def spawn(num_workers: int, stages: tuple[int, ...], data_url: str, out: Path, port: int) -> None:
    """Run ``work`` in processes of their own."""
    torch.multiprocessing.spawn(
        work, (num_workers, stages, data_url, str(out), port), nprocs=num_workers, join=True
    )


def spawn_workers(plans: list[InjectionPlan], port: int, killed_after: int | None = None) -> None:
    """Run ``inject`` in two processes of their own."""
    torch.multiprocessing.spawn(inject, (plans, killed_after, port), nprocs=2, join=True)
