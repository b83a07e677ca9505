"""The batch loss against the definition of L^n, task by task."""

import pytest
import torch
from torch.nn import functional as F

from fedkim_ray.data.loading import JoinedSamples, collate
from fedkim_ray.federation.client import Client
from fedkim_ray.federation.objective import batch_loss, task_weights


def test_task_weights_by_hand() -> None:
    # |D| = 40, T = 2: 40 / (2 * 10) = 2 and 40 / (2 * 30) = 2/3; the mean over examples is 1.
    weights = task_weights({"rare": 10, "common": 30})
    assert weights == pytest.approx({"rare": 2.0, "common": 2 / 3})
    assert (10 * weights["rare"] + 30 * weights["common"]) / 40 == pytest.approx(1.0)


def test_the_loss_over_all_examples_is_the_mean_over_tasks(tiny_without_dropout) -> None:
    client = Client(tiny_without_dropout.setups["south"])
    client.model.load_params(tiny_without_dropout.params)
    # Unequal sizes, so that the mean over tasks differs from the mean over examples.
    spec = client.setup.spec
    train = {"ecg_abnormal": 10, "mortality": 30}
    parts = {task: [client.data.train[task][i] for i in range(n)] for task, n in train.items()}

    expected = 0.0
    for task in client.tasks:
        batch = collate(parts[task.id], spec)
        logits = client.model.logits(
            client.model.encode(batch), task, torch.arange(batch.size), batch.size
        )
        labels = torch.tensor([float(e.label) for e in batch.examples])
        expected += F.binary_cross_entropy_with_logits(logits, labels).item() / 2

    mixed = collate([*parts["mortality"], *parts["ecg_abnormal"]], spec)
    loss = batch_loss(client.model, mixed, client.tasks, task_weights(train))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_batches_weighted_by_size_give_the_same_mean(tiny_without_dropout) -> None:
    client = Client(tiny_without_dropout.setups["north"])
    examples = JoinedSamples(client.data.train)
    weights = task_weights({task: len(s) for task, s in client.data.train.items()})

    def loss_of(rows: range) -> float:
        batch = collate([examples[i] for i in rows], client.setup.spec)
        return batch_loss(client.model, batch, client.tasks, weights).item()

    client.model.eval()
    n = len(examples)
    parts = sum(
        loss_of(range(start, min(start + 50, n))) * (min(start + 50, n) - start)
        for start in range(0, n, 50)
    )
    assert parts / n == pytest.approx(loss_of(range(n)), rel=1e-5)
