"""What does M3OE add to one linear layer, forward and backward, in time and in memory?

Five ways to the same outputs and gradients' shapes, beside the plain frozen layer:

    plain        W h
    lora         PEFT LoRA of rank P*r, no routing
    m3oe         the same LoRA with a gate on the rank axis (ours)
    loop         sum over experts, one after another
    einsum       every expert's full output, then their weighted sum
    xlora        PEFT's X-LoRA layer over one LoRA an expert, its weights given per token

Backward begins with a dense gradient, as a following layer would give it, and gradients start from
nothing, as after an optimizer's step. Memory is exact, and the same on every machine: ``kept_mib``
is what autograd keeps between forward and backward, parameters left out; ``peak_mib`` is the most
that forward and backward have allocated at once, gradients included.
"""

from collections.abc import Callable
from contextlib import nullcontext
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.xlora.layer import XLoraLinearLayer
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import Timing, interleave, options, report
from fedkim_ray.injection.m3oe import ExpertGate, attach_gate

SHAPES = ("2048x2048", "4096x11008")
DTYPES = ("float32", "bfloat16")
NUM_EXPERTS, RANK, LORA_ALPHA = 12, 8, 32.0
BATCH, LENGTH = 8, 128


class OneLayer(nn.Module):
    """A frozen linear layer that PEFT can adapt."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim_in, dim_out, bias=False).requires_grad_(False)

    def forward(self, h: Tensor) -> Tensor:
        """W h, and what the adapter adds."""
        out: Tensor = self.project(h)
        return out


def lora(dim_in: int, dim_out: int, gate: ExpertGate | None) -> nn.Module:
    config = LoraConfig(
        r=NUM_EXPERTS * RANK, lora_alpha=LORA_ALPHA, target_modules=["project"], lora_dropout=0.0
    )
    model = get_peft_model(OneLayer(dim_in, dim_out), config, autocast_adapter_dtype=False)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.02)
    if gate is not None:
        attach_gate(model, gate)
    return model


def xlora(dim_in: int, dim_out: int, alpha_BP: Tensor) -> nn.Module:
    """PEFT's own layer; its router is left out, so that the layer alone is compared."""
    config = LoraConfig(r=RANK, lora_alpha=LORA_ALPHA, target_modules=["project"], lora_dropout=0.0)
    model = get_peft_model(OneLayer(dim_in, dim_out), config, adapter_name="0")
    for expert in range(1, NUM_EXPERTS):
        model.add_adapter(str(expert), config)
    names = [str(expert) for expert in range(NUM_EXPERTS)]
    model.base_model.set_adapter(names)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter.requires_grad_(), std=0.02)
    layer = model.base_model.model.project
    settings = SimpleNamespace(top_k_lora=None, enable_softmax_topk=False, global_scaling_weight=1)
    routed = XLoraLinearLayer(
        model=SimpleNamespace(disabled=False),
        target=layer,
        target_forward=layer.forward,
        layer_number=0,
        config=settings,
    )

    def forward(h: Tensor) -> Tensor:
        return routed.forward(h, scalings=alpha_BP[:, None, None, :].expand(-1, LENGTH, -1, -1))

    layer.forward = forward
    return model


class Experts(nn.Module):
    """Experts as separate tensors, for the two naive forms."""

    def __init__(self, dim_in: int, dim_out: int, alpha_BP: Tensor) -> None:
        super().__init__()
        self.layer = OneLayer(dim_in, dim_out)
        self.A_PRI = nn.Parameter(0.02 * torch.randn(NUM_EXPERTS, RANK, dim_in))
        self.B_POR = nn.Parameter(0.02 * torch.randn(NUM_EXPERTS, dim_out, RANK))
        self.alpha_BP = alpha_BP
        self.scale = LORA_ALPHA / RANK


class Loop(Experts):
    """One expert after another."""

    def forward(self, h: Tensor) -> Tensor:
        """Add each expert's share of the output."""
        out: Tensor = self.layer(h)
        for p in range(NUM_EXPERTS):
            z = nn.functional.linear(nn.functional.linear(h, self.A_PRI[p]), self.B_POR[p])
            out = out + self.scale * self.alpha_BP[:, p, None, None] * z
        return out


class Einsum(Experts):
    """All outputs of all experts at once."""

    def forward(self, h: Tensor) -> Tensor:
        """Materialise (B, L, P, d_out), then weigh."""
        z = torch.einsum("bli,pri->blpr", h, self.A_PRI)
        each = torch.einsum("blpr,por->blpo", z, self.B_POR)
        out: Tensor = self.layer(h) + self.scale * torch.einsum("blpo,bp->blo", each, self.alpha_BP)
        return out


def kept_bytes(model: nn.Module, step: Callable[[], object]) -> int:
    """Bytes that autograd keeps for backward, each storage once, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(kept.values())


def peak_bytes(step: Callable[[], object]) -> int:
    """Bytes that a step has allocated at its highest moment, beyond those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        step()
    events = told.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(size for _, size in changes))


def measure(dim_in: int, dim_out: int, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    routed = torch.randn(BATCH, NUM_EXPERTS).softmax(-1).requires_grad_()  # float32, as a router's
    alpha = routed.detach().to(dtype).requires_grad_()
    h = torch.randn(BATCH, LENGTH, dim_in, dtype=dtype, requires_grad=True)
    gradient = torch.randn(BATCH, LENGTH, dim_out, dtype=dtype)
    gate = ExpertGate(NUM_EXPERTS, RANK)
    models = {
        "plain": OneLayer(dim_in, dim_out),
        "lora": lora(dim_in, dim_out, None),
        "m3oe": lora(dim_in, dim_out, gate),
        "loop": Loop(dim_in, dim_out, alpha),
        "einsum": Einsum(dim_in, dim_out, alpha),
        "xlora": xlora(dim_in, dim_out, alpha),
    }

    def step_of(name: str, model: nn.Module) -> Callable[[], None]:
        leaves = [h, alpha, routed, *model.to(dtype).parameters()]

        def step() -> None:
            with gate.hold(routed) if name == "m3oe" else nullcontext():
                model(h).backward(gradient)
            for leaf in leaves:
                leaf.grad = None

        return step

    steps = {name: step_of(name, model) for name, model in models.items()}
    timings = interleave(steps, repeats)
    kept = {name: kept_bytes(models[name], step) for name, step in steps.items()}
    peak = {name: peak_bytes(step) for name, step in steps.items()}
    return {"cases": _rows(timings, kept, peak), **_claims(timings, kept, peak)}


def _rows(timings: dict[str, Timing], kept: dict[str, int], peak: dict[str, int]) -> dict[str, Any]:
    return {
        name: {
            **timing.as_json(),
            "ratio_to_plain": timing.ratio_to(timings["plain"]),
            "kept_mib": kept[name] / 2**20,
            "peak_mib": peak[name] / 2**20,
        }
        for name, timing in timings.items()
    }


def _claims(
    timings: dict[str, Timing], kept: dict[str, int], peak: dict[str, int]
) -> dict[str, float]:
    added = {n: t.median_added_s(timings["plain"]) for n, t in timings.items()}
    more = {n: k - kept["plain"] for n, k in kept.items()}
    higher = {n: p - peak["plain"] for n, p in peak.items()}
    return {
        "m3oe_to_lora_time": timings["m3oe"].ratio_to(timings["lora"]),
        "loop_to_m3oe_added_time": added["loop"] / added["m3oe"],
        "einsum_to_m3oe_added_time": added["einsum"] / added["m3oe"],
        "xlora_to_m3oe_added_time": added["xlora"] / added["m3oe"],
        "einsum_to_m3oe_added_memory": more["einsum"] / more["m3oe"],
        "einsum_to_m3oe_added_peak": higher["einsum"] / higher["m3oe"],
    }


def main() -> None:
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="d_in x d_out of the layer")
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES, help="precisions")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = {
        "num_experts": NUM_EXPERTS,
        "rank": RANK,
        "batch": BATCH,
        "length": LENGTH,
        "threads": args.threads,
        "repeats": args.repeats,
    }
    results = {
        f"{shape} {dtype}": measure(
            *map(int, shape.split("x")), getattr(torch, dtype), args.repeats
        )
        for shape in args.shapes
        for dtype in args.dtypes
    }
    report("What does M3OE add to one linear layer?", settings, results, args.out)


if __name__ == "__main__":
    main()
