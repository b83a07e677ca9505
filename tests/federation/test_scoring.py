"""Scores on the validation split."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from fedkim_ray.federation.scoring import auroc


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1], 1.0),
        ([4.0, 3.0, 2.0, 1.0], [0, 0, 1, 1], 0.0),
        ([1.0, 1.0, 1.0, 1.0], [0, 1, 0, 1], 0.5),  # ties count half
        ([1.0, 3.0, 2.0], [0, 1, 1], 1.0),
        ([1.0, 3.0, 2.0], [0, 0, 1], 0.5),  # above one negative of two
    ],
)
def test_auroc_by_hand(scores: list[float], labels: list[int], expected: float) -> None:
    assert auroc(torch.tensor(scores), torch.tensor(labels)) == expected


def test_auroc_agrees_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 50, (300,), generator=generator).float()
    labels = torch.randint(0, 2, (300,), generator=generator)
    expected = roc_auc_score(labels.numpy(), scores.numpy())
    assert auroc(scores, labels) == pytest.approx(expected, abs=1e-12)
