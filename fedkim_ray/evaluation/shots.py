"""Few-shot fine-tuning: how much K examples of a task add, and what injection saved.

Half of a task's test subjects are a pool that shots are taken from; the other half are asked. The
halves depend on the data and the seed alone, and K shots are the first K of the pool, so all points
of a curve were asked the same questions and each has the shots of the smaller ones.

Two models are tuned alike, with the same shots, steps and rates: the injected one, and the same
language model with fresh encoders, aligners, router and experts. Fine-tuning is the one place
where an unseen task is trained, on a copy that becomes no part of the bundle.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Literal

import numpy as np
import pyarrow as pa
import torch

from fedkim_ray.bundle.read import LoadedBundle, load_base_of
from fedkim_ray.config import EvaluationConfig
from fedkim_ray.data.loading import SampleSet
from fedkim_ray.errors import DataError
from fedkim_ray.evaluation.arms import ArmAnswers, compare_arms
from fedkim_ray.evaluation.bootstrap import Estimate
from fedkim_ray.evaluation.evaluate import labels_of
from fedkim_ray.evaluation.metrics import HEADLINE
from fedkim_ray.evaluation.scoring import score_samples
from fedkim_ray.evaluation.tuning import injected_parameters, restore, tune
from fedkim_ray.injection.model import InjectedModel
from fedkim_ray.types import Frozen, Task

INJECTED, UNINJECTED = "injected", "uninjected"


class CurvePoint(Frozen):
    """Both models after K shots, on the same questions."""

    shots: int
    """K; 0 is zero-shot."""
    injected: Estimate
    uninjected: Estimate
    difference: Estimate
    """Injected minus uninjected, paired by subject."""


class ShotCurve(Frozen):
    """What an evaluation of fine-tuning found."""

    format_version: Literal[1] = 1
    bundle: str
    """The bundle's version."""
    task: str
    metric: str
    data_kind: str
    num_questions: int
    num_subjects: int
    steps: int
    batch_size: int
    lr: float
    seed: int
    points: tuple[CurvePoint, ...]


def shot_split(samples: SampleSet, seed: int = 0) -> tuple[list[int], list[int]]:
    """Return the rows of the pool, in the order in which shots are taken, and the rows asked.

    No subject is in both. Labels take turns in the pool for as long as there are some of each.
    """
    subjects = samples.table["subject_id"].to_pylist()
    order = np.random.default_rng(seed).permutation(sorted(set(subjects)))
    pooled = set(order[: len(order) // 2].tolist())
    place = {subject: number for number, subject in enumerate(order.tolist())}
    rows = sorted(range(len(subjects)), key=lambda row: place[subjects[row]])
    labels = labels_of(samples)
    by_label: dict[object, list[int]] = {}
    for row in (row for row in rows if subjects[row] in pooled):
        by_label.setdefault(labels[row], []).append(row)
    turns = zip_longest(*(by_label[label] for label in sorted(by_label, key=str)))
    pool = [row for turn in turns for row in turn if row is not None]
    return pool, [row for row in range(len(subjects)) if subjects[row] not in pooled]


def shot_curve(
    bundle: LoadedBundle,
    task: Task,
    samples: SampleSet,
    shots: Sequence[int],
    config: EvaluationConfig,
    *,
    data_kind: str,
    steps: int = 30,
    batch_size: int = 8,
    seed: int = 0,
    on_progress: Callable[[str, int], None] = lambda model, shots: None,
) -> ShotCurve:
    """Fine-tune and ask both models for each number of shots.

    Args:
        bundle: Loaded in float32, which its parameters are tuned in; it is as before afterwards.
        task: Which task.
        samples: Its test rows.
        shots: Numbers of shots; 0 asks without any.
        config: How questions are asked and resampled.
        data_kind: Whether the rows are real or synthetic, for the report.
        steps: Optimizer steps for each number of shots.
        batch_size: Shots in one step, at most.
        seed: Fixes the halves, the fresh model, the order of shots and the dropout.
        on_progress: Told model and shots before each begins.

    Raises:
        DataError: there are fewer shots in the pool than asked for, or nothing to ask.
    """
    pool, held_out = shot_split(samples, seed)
    _require_enough(task, shots, pool, held_out)
    asked = SampleSet(samples.table.take(held_out), samples.spec)
    answers: dict[int, dict[str, ArmAnswers]] = {k: {} for k in sorted(set(shots))}
    models = {INJECTED: bundle.model, UNINJECTED: _fresh_model(bundle, seed)}
    for name, model in models.items():
        start = {n: p.detach().clone() for n, p in injected_parameters(model).items()}
        for k in answers:
            on_progress(name, k)
            tune(model, samples, pool[:k], bundle.facts.injection, steps, batch_size, seed)
            answers[k][name] = {0: _ask(model, task, asked, config)}
            restore(model, start)
    return ShotCurve(
        bundle=bundle.facts.version,
        task=task.id,
        metric=HEADLINE[task.kind],
        data_kind=data_kind,
        num_questions=len(asked),
        num_subjects=len(set(asked.table["subject_id"].to_pylist())),
        steps=steps,
        batch_size=batch_size,
        lr=bundle.facts.injection.lr,
        seed=seed,
        points=tuple(_point(k, a, task, config) for k, a in answers.items()),
    )


def _fresh_model(bundle: LoadedBundle, seed: int) -> InjectedModel:
    """Return the same language model with the same parts as injection would start from."""
    facts, tasks = bundle.facts, {task.id: task for task in bundle.facts.tasks}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = InjectedModel(
            load_base_of(facts, "float32"), facts.injection, facts.encoders, facts.spec, tasks
        )
    return model.float().to(bundle.model.device).eval().requires_grad_(False)


def _ask(model: InjectedModel, task: Task, asked: SampleSet, config: EvaluationConfig) -> pa.Table:
    return score_samples(
        model,
        {task.id: asked},
        batch_size=config.batch_size,
        max_new_tokens=config.max_new_tokens,
    )


def _point(
    shots: int, answers: Mapping[str, ArmAnswers], task: Task, config: EvaluationConfig
) -> CurvePoint:
    results = compare_arms(answers, {task.id: task}, config.bootstrap_samples)
    both = {r.arm: r for r in results if r.metric == HEADLINE[task.kind]}
    difference = both[UNINJECTED].difference
    assert difference is not None  # both answered the task
    return CurvePoint(
        shots=shots,
        injected=both[INJECTED].value,
        uninjected=both[UNINJECTED].value,
        difference=difference,
    )


def _require_enough(
    task: Task, shots: Sequence[int], pool: Sequence[int], held_out: Sequence[int]
) -> None:
    if not held_out or max(shots, default=0) > len(pool):
        raise DataError(
            f"{max(shots, default=0)} shots of {task.id!r} are asked for.",
            f"Half of its test subjects are the pool, with {len(pool)} rows; "
            f"{len(held_out)} rows are left to ask.",
            "Ask for fewer shots, or use a larger data root.",
        )
