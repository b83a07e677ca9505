"""Label probabilities, read where the working precision would round them away."""

import torch
from torch import nn

from fedkim_ray.injection.inference import word_logits


def test_logits_that_bfloat16_cannot_tell_apart_are_told_apart() -> None:
    head = nn.Linear(2, 3, bias=True, dtype=torch.bfloat16)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[4.0, 0.0], [4.0, 0.0625], [0.0, 0.0]]))
        head.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
        hidden = torch.tensor([[8.0, 1.0], [1.0, 2.0]], dtype=torch.bfloat16)
        # 4 * 8 = 32, whose next in bfloat16 is 32.25: the head gives 32 twice.
        assert head(hidden)[0, 0] == head(hidden)[0, 1]
        pairs = word_logits(head, hidden, torch.tensor([[0, 1], [2, 0]]))
    assert pairs.tolist() == [[32.0, 32.0625], [1.0, 4.0]]
