"""One adapted layer as one differentiable operation: c = W h + b + B (g * (A x)).

With dc the gradient of c, z = A x and y = g * z:

    dy = B^T dc        dB = dc y^T
    dz = g * dy        dA = dz x^T        dg = dy * z
    dh = W^T dc        dx = A^T dz, added to dh where x is h

Left to autograd, each sum is a pass of its own over a tensor of the layer's size, and y is kept
beside z. Here the GEMMs add as they go, and x and z are all that is kept: what a plain LoRA keeps.

Shape letters: a dot is (B, L), or the (N,) of gathered rows; N is all rows; I and O are the layer's
widths, R the stacked ranks. Where ``x`` is None, it is ``h``: there is no dropout.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class GatedLinear(torch.autograd.Function):
    """``gated_linear`` with its gradients; W and b are frozen and get none."""

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        x: Tensor | None,
        W_OI: Tensor,
        b_O: Tensor | None,
        A_RI: Tensor,
        B_OR: Tensor,
        gate: Tensor,
    ) -> Tensor:
        """Return c; see ``gated_linear``."""
        c, z = gated_linear(h, x, W_OI, b_O, A_RI, B_OR, gate)
        ctx.is_dropped_out = x is not None
        ctx.save_for_backward(h if x is None else x, z, W_OI, A_RI, B_OR, gate)
        return c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dc: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of ``forward``'s arguments."""
        x, z, W_OI, A_RI, B_OR, gate = ctx.saved_tensors
        g, dc_NO = gate.to(z.dtype), dc.flatten(0, -2).contiguous()
        dy = (dc_NO @ B_OR).view_as(z)
        dz_NR, y_NR = (dy * g).flatten(0, -2), (z * g).flatten(0, -2)
        dg = (dy * z).to(gate.dtype).sum_to_size(gate.shape)
        dA_RI, dB_OR = dz_NR.T @ x.flatten(0, -2), dc_NO.T @ y_NR
        # The large GEMM comes last and adds to what the small one wrote: adding costs it nothing.
        dh_NI = dx_NI = dz_NR @ A_RI
        if ctx.is_dropped_out:
            dh_NI = dc_NO @ W_OI
        else:
            dh_NI.addmm_(dc_NO, W_OI)
        dh = dh_NI.view_as(x)
        dx = dx_NI.view_as(x) if ctx.is_dropped_out else None
        return dh, dx, None, None, dA_RI, dB_OR, dg


def gated_linear(
    h: Tensor,
    x: Tensor | None,
    W_OI: Tensor,
    b_O: Tensor | None,
    A_RI: Tensor,
    B_OR: Tensor,
    gate: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute one adapted layer.

    Args:
        h: Input, (., I).
        x: What the adapter sees of it, (., I), or None: the same.
        W_OI: Frozen weight.
        b_O: Frozen bias, if any.
        A_RI: Stacked A.
        B_OR: Stacked B.
        gate: (B, 1, R), or (N, R) at gathered rows; the adapter's scale is in it.

    Returns:
        c (., O), and z = A x (., R).
    """
    z = F.linear(h if x is None else x, A_RI)
    c = F.linear(z * gate.to(z.dtype), B_OR, b_O)
    c.view(-1, c.shape[-1]).addmm_(h.flatten(0, -2), W_OI.T)
    return c, z
