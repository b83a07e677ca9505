"""How well a client's heads do on its own validation split; only these numbers leave.

Metrics of a training round are named ``valid/<task>/<what>_<before|after>``: before is theta_global
as it came, after is theta_n as it was trained. Where theta_global alone is scored, they are
``valid/<task>/<what>``. ``valid/<task>/examples`` says how many examples stand behind them.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fedkim_ray.data.loading import SampleSet, collate
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.types import Task, TaskId


def score_heads(
    model: LightModel, tasks: Sequence[Task], valid: Mapping[TaskId, SampleSet], batch_size: int
) -> dict[TaskId, dict[str, float]]:
    """Return ``loss``, and ``auroc`` where both labels occur, of each task's head."""
    model.eval()
    scores = {}
    for task in tasks:
        logits, labels = predict(model, task, valid[task.id], batch_size)
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        scores[task.id] = {"loss": float(loss)}
        if 0 < labels.sum() < len(labels):
            scores[task.id]["auroc"] = auroc(logits, labels)
    return scores


@torch.inference_mode()
def predict(
    model: LightModel, task: Task, samples: SampleSet, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Return the head's logits and the labels of all samples, (N,) float each."""
    logits, labels = [], []
    for start in range(0, len(samples), batch_size):
        stop = min(start + batch_size, len(samples))
        batch = collate([samples[i] for i in range(start, stop)], samples.spec)
        logits.append(model.logits(model.encode(batch), task, torch.arange(batch.size), batch.size))
        labels.append(torch.tensor([float(e.label or 0) for e in batch.examples]))
    return torch.cat(logits), torch.cat(labels)


def auroc(scores_N: Tensor, labels_N: Tensor) -> float:
    """Return P(a positive scores higher than a negative), ties counted half.

    Both labels must occur.
    """
    negatives = scores_N[labels_N == 0].sort().values
    positives = scores_N[labels_N == 1]
    below = torch.searchsorted(negatives, positives)
    not_above = torch.searchsorted(negatives, positives, right=True)
    return float((below + not_above).double().mean() / (2 * len(negatives)))


def metrics_of(
    scores: Mapping[str, Mapping[TaskId, Mapping[str, float]]], valid: Mapping[TaskId, SampleSet]
) -> dict[str, float]:
    """Name scores, given by the ending of their names, as the module's head says."""
    metrics = {f"valid/{task}/examples": float(len(samples)) for task, samples in valid.items()}
    for ending, by_task in scores.items():
        for task, values in by_task.items():
            metrics |= {f"valid/{task}/{what}{ending}": value for what, value in values.items()}
    return metrics
