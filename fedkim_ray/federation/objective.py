"""What a client minimises.

    L^n = (1/T) * sum_t (1/|D^n_t|) * sum_i loss_t( DEC_t(ENC(x_i)), y_i )

Weighting each example by |D^n| / (T * |D^n_t|) makes the plain mean over all examples equal to
L^n, so that batches may mix tasks and their losses are unbiased estimates of it.

Source: FedKIM section 3.1, https://arxiv.org/abs/2408.10276
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fedkim_ray.data.loading import Batch
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.types import Task, TaskId


def task_weights(num_examples: Mapping[TaskId, int]) -> dict[TaskId, float]:
    """Return |D| / (T * |D_t|) for each task t."""
    D, T = sum(num_examples.values()), len(num_examples)
    return {task: D / (T * D_t) for task, D_t in num_examples.items()}


def batch_loss(
    model: LightModel, batch: Batch, tasks: Sequence[Task], weights: Mapping[TaskId, float]
) -> Tensor:
    """Return the batch's weighted mean loss, a scalar; each modality group is encoded once.

    Args:
        model: Encoders and heads.
        batch: Labelled examples of any of ``tasks``.
        tasks: Yes/no tasks; loss_t is binary cross-entropy.
        weights: What ``task_weights`` gives for the whole training set.
    """
    encoded = model.encode(batch)
    labels = torch.tensor([float(e.label or 0) for e in batch.examples])
    total = torch.zeros(())
    for task in tasks:
        rows = batch.rows_of(task.id)
        if len(rows):
            logits = model.logits(encoded, task, rows, batch.size)
            loss = F.binary_cross_entropy_with_logits(logits, labels[rows], reduction="sum")
            total = total + weights[task.id] * loss
    return total / batch.size
