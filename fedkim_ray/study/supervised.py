"""Light models trained without federation: each client alone, and all data in one place.

Both minimise the clients' own objective L^n from the same initial values, with one Adam and as
many passes over the data as the federation's clients make in all their rounds. No injection
follows: their heads answer.
"""

import hashlib
from collections.abc import Mapping, Sequence

import pyarrow as pa
import torch

from fedkim_ray.config import LocalTrainingConfig, Recipe
from fedkim_ray.data.loading import JoinedSamples, SampleSet, collate, epoch_batches
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.evaluation.answers import Answer, answer_table
from fedkim_ray.federation.client import fresh_adam
from fedkim_ray.federation.objective import batch_loss, task_weights
from fedkim_ray.federation.scoring import predict
from fedkim_ray.types import Task, TaskId

HEAD = "head"
"""How these answers are read: the task's own output of the light model."""


def train_light(
    recipe: Recipe,
    spec: DataSpec,
    heads: Sequence[Task],
    train: Mapping[TaskId, SampleSet],
    name: str,
) -> LightModel:
    """Train a light model on ``train`` and return it in evaluation mode.

    Args:
        recipe: Settings: encoders, seed, and the clients' training in every round.
        spec: What the data carry.
        heads: Tasks that the model has a head for, the same for all models of a recipe.
        train: Labelled rows by task.
        name: What is trained; with the seed it fixes the order of the examples and the dropout.
    """
    local, rounds = recipe.federation.local, recipe.federation.rounds
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = LightModel(recipe.encoders, spec, heads)
        seed = int.from_bytes(hashlib.sha256(f"{recipe.seed}/{name}".encode()).digest()[:7], "big")
        torch.manual_seed(seed)
        _train(model, heads, train, local, local.epochs * rounds, seed)
    return model.eval()


def head_answers(
    model: LightModel, tasks: Sequence[Task], test: Mapping[TaskId, SampleSet], batch_size: int
) -> pa.Table:
    """Return what a light model's heads answer, as a table of schema ``ANSWERS``."""
    model.eval()
    answers = {}
    for task in tasks:
        logits, _ = predict(model, task, test[task.id], batch_size)
        answers[task.id] = [
            Answer(task.answer_words[int(p > 0.5)], HEAD, p)
            for p in logits.double().sigmoid().tolist()
        ]
    return answer_table({t.id: test[t.id] for t in tasks}, answers, {t.id: t for t in tasks})


def _train(
    model: LightModel,
    heads: Sequence[Task],
    train: Mapping[TaskId, SampleSet],
    local: LocalTrainingConfig,
    epochs: int,
    seed: int,
) -> None:
    tasks = [task for task in heads if task.id in train]
    weights = task_weights({task: len(samples) for task, samples in train.items()})
    examples, order = JoinedSamples(train), torch.Generator().manual_seed(seed)
    optimizer = fresh_adam([*model.parameters()], local.lr, local.weight_decay)
    model.train()
    for _ in range(epochs):
        for rows in epoch_batches(len(examples), local.batch_size, order):
            batch = collate([examples[i] for i in rows], model.spec)
            loss = batch_loss(model, batch, tasks, weights)
            optimizer.zero_grad(set_to_none=False)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
