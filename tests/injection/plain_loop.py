"""The paper's sum over experts as a plain loop: no stacking, no gate, no PEFT.

    c = W_F h + b + s * sum_p alpha_p * B_p (A_p h)

Written from the equation alone, one example and one expert at a time, to hold M3OE against.
"""

import copy
from collections.abc import Mapping

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn


class SumOverExperts(nn.Module):
    """One adapted layer."""

    def __init__(self, frozen: nn.Module, A: list[Tensor], B: list[Tensor], scale: float) -> None:
        super().__init__()
        self.frozen, self.scale = frozen, scale
        self.A = nn.ParameterList(A)  # A_p, (r, d_in)
        self.B = nn.ParameterList(B)  # B_p, (d_out, r)
        self.alpha_BP: Tensor | None = None

    def forward(self, h_BLD: Tensor) -> Tensor:
        """The equation, row by row."""
        assert self.alpha_BP is not None
        rows = []
        for h_LD, alpha in zip(h_BLD, self.alpha_BP, strict=True):
            c = self.frozen(h_LD)
            for p, weight in enumerate(alpha):
                c = c + self.scale * weight * ((h_LD @ self.A[p].T) @ self.B[p].T)
            rows.append(c)
        return torch.stack(rows)


def as_plain_loop(
    adapted: nn.Module, base: nn.Module, num_experts: int, rank: int, scale: float
) -> nn.Module:
    """Return a copy of ``base`` whose layers loop over the experts that ``adapted`` holds.

    Args:
        adapted: The PEFT model; expert p is rows p*r..(p+1)*r of A, and these columns of B.
        base: The same base model, untouched.
        num_experts: P.
        rank: r.
        scale: s = lora_alpha / r.
    """
    plain = copy.deepcopy(base)
    for name, layer in adapted.named_modules():
        if isinstance(layer, LoraLayer):
            where = name.removeprefix("base_model.model.")
            A = layer.lora_A["default"].weight.detach().split(rank)
            B = layer.lora_B["default"].weight.detach().split(rank, dim=1)
            assert len(A) == len(B) == num_experts
            experts = SumOverExperts(
                plain.get_submodule(where),
                [a.clone() for a in A],
                [b.clone() for b in B],
                scale,
            )
            plain.set_submodule(where, experts)
    return plain


def set_alpha(plain: nn.Module, alpha_BP: Tensor) -> None:
    """Give every looping layer the expert weights of the batch."""
    for layer in plain.modules():
        if isinstance(layer, SumOverExperts):
            layer.alpha_BP = alpha_BP


def stacked_gradients(plain: nn.Module) -> Mapping[str, Tensor]:
    """Return the experts' gradients in the stacked layout, under PEFT's names."""
    stacked = {}
    for name, layer in plain.named_modules():
        if isinstance(layer, SumOverExperts):
            where = f"base_model.model.{name}"
            stacked[f"{where}.lora_A.default.weight"] = torch.cat([a.grad for a in layer.A])
            stacked[f"{where}.lora_B.default.weight"] = torch.cat([b.grad for b in layer.B], 1)
    return stacked
