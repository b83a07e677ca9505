"""M3OE: P LoRA experts as one stock LoRA of rank P*r with a gate on the rank axis.

    c = W_F h + s * sum_p alpha_p * B_p A_p h                                 s = lora_alpha / r
      = W_F h + s * B ((alpha repeated r times) * (A h))
      with A = [A_1; ...; A_P]  (P*r, d_in)   and   B = [B_1 ... B_P]  (d_out, P*r)

Two GEMMs and one product, for any mix of tasks in a batch; no expert's full output is ever
materialised (``gated_linear.py``). PEFT scales a LoRA by lora_alpha / (P*r) = s / P, so the gate
here is P * alpha: the same checkpoint loaded by PEFT without a gate is exactly the uniform mixture.

Shape letters: B examples, L positions, P experts, R = P*r stacked ranks, N gathered rows.

Source: FedKIM section 3.2, step 3. https://arxiv.org/abs/2408.10276
"""

import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from fedkim_ray.errors import GateShapeError, RecipeError
from fedkim_ray.injection.gated_linear import GatedLinear, gated_linear


class ExpertGate:
    """The expert weights of the batch that is in the model right now.

    The gate is a plain attribute: set before forward and cleared after backward, because
    activation checkpointing recomputes inside backward, and on CUDA backward runs in other
    threads, which see no thread-local and no context variable. One loop owns a model.
    """

    def __init__(self, num_experts: int, rank: int) -> None:
        self.num_experts = num_experts
        self.rank = rank
        self._gate_BR: Tensor | None = None
        self._rows_N: Tensor | None = None

    def set(self, alpha_BP: Tensor) -> None:
        """Apply expert weights (B, P) to every adapted layer until ``clear``.

        Raises:
            GateShapeError: another batch's gate is still held, or P differs.
        """
        if self._gate_BR is not None:
            raise GateShapeError(
                "A gate is already held by an unfinished batch.",
                "One loop owns a model, and one batch is in it at a time.",
                "Clear the gate after backward, before the next batch.",
            )
        if alpha_BP.dim() != 2 or alpha_BP.shape[1] != self.num_experts:
            raise GateShapeError(
                f"Expert weights have the shape {tuple(alpha_BP.shape)}.",
                f"Expected (batch, {self.num_experts}).",
                "Use the router of the same recipe.",
            )
        self._gate_BR = (self.num_experts * alpha_BP).repeat_interleave(self.rank, -1)

    @property
    def alpha_BP(self) -> Tensor:
        """The expert weights that are held, (B, P), cut off from their graph.

        Raises:
            GateShapeError: none are held.
        """
        return self._held()[:, :: self.rank].detach() / self.num_experts

    def clear(self) -> None:
        """Let go of the batch's expert weights; harmless when none are held."""
        self._gate_BR = None

    @contextmanager
    def hold(self, alpha_BP: Tensor) -> Iterator[None]:
        """Set expert weights for the length of a block."""
        self.set(alpha_BP)
        try:
            yield
        finally:
            self.clear()

    @contextmanager
    def at_rows(self, rows_N: Tensor) -> Iterator[None]:
        """Say that layers now see gathered rows (N, d) of these examples, not (B, L, d)."""
        self._rows_N = rows_N
        try:
            yield
        finally:
            self._rows_N = None

    def of(self, h: Tensor) -> Tensor:
        """Return what scales the low-rank activations A h of a layer's input.

        Args:
            h: (B, L, d_in), or (N, d_in) at gathered rows.

        Returns:
            (B, 1, R), or (N, R) at gathered rows; expert-major, each row its example's.

        Raises:
            GateShapeError: no gate is held, or it belongs to another batch size.
        """
        gate_BR = self._held()
        if self._rows_N is not None:
            return gate_BR[self._rows_N]
        if h.shape[0] != gate_BR.shape[0]:
            raise GateShapeError(
                f"A layer saw {h.shape[0]} examples.",
                f"The gate holds weights of {gate_BR.shape[0]}.",
                "Gate and batch must belong together.",
            )
        return gate_BR[:, None]

    def _held(self) -> Tensor:
        if self._gate_BR is None:
            raise GateShapeError(
                "An adapted layer ran without expert weights.",
                "Every forward pass has a gate.",
                "Wrap the forward pass in ExpertGate.hold(alpha).",
            )
        return self._gate_BR


def add_experts(
    llm: nn.Module,
    *,
    num_experts: int,
    rank: int,
    lora_alpha: float,
    dropout: float,
    target_modules: Sequence[str] | str,
    gate: ExpertGate | None,
) -> PeftModel:
    """Give every target layer P stacked experts; with a gate, each forward pass needs weights.

    Args:
        llm: The base model; its weights stay frozen.
        num_experts: P.
        rank: r.
        lora_alpha: Numerator of the scale s = lora_alpha / r of one expert.
        dropout: Dropout before A.
        target_modules: Layer names, ``attention_mlp`` or ``all``.
        gate: Where expert weights come from; None leaves the uniform mixture (one plain LoRA).

    Raises:
        RecipeError: a target module matches nothing in this base model.
    """
    names = target_names(llm, target_modules)
    config = LoraConfig(
        r=num_experts * rank,
        lora_alpha=lora_alpha,
        lora_dropout=dropout,
        target_modules=names,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # Of a tied head as target: the bundle leaves base weights out and unties before a merge.
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
        # Of GPT-2's transposed weights, which PEFT notices by itself.
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
        model = get_peft_model(llm, config, autocast_adapter_dtype=False)
    if gate is not None:
        attach_gate(model, gate)
    return model


def attach_gate(model: nn.Module, gate: ExpertGate) -> None:
    """Let ``gate`` scale the low-rank activations of every adapted layer in ``model``."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            # A layer that held itself would keep its weights until a garbage collection.
            layer.forward = partial(gated_forward, weakref.proxy(layer), gate)


def gated_forward(layer: LoraLayer, gate: ExpertGate, h: Tensor) -> Tensor:
    """Run one adapted layer: c = W_F h + s * B (gate * (A h)).

    Args:
        layer: PEFT's layer: W_F with ``lora_A``, ``lora_B``, dropout and scale.
        gate: Holds the batch's expert weights.
        h: (B, L, d_in), or (N, d_in) at gathered rows.
    """
    A, B, dropout = (part["default"] for part in (layer.lora_A, layer.lora_B, layer.lora_dropout))
    scaled = layer.scaling["default"] * gate.of(h)
    frozen = layer.base_layer
    if not _has_plain_weights(frozen, A):
        z = A(dropout(h))
        summed: Tensor = frozen(h) + B(z * scaled.to(z.dtype))
        return summed
    x = dropout(h) if layer.training and isinstance(dropout, nn.Dropout) else None
    W = frozen.weight.T if type(frozen).__name__ == "Conv1D" else frozen.weight
    parts = (h, x, W, frozen.bias, A.weight, B.weight, scaled)
    if not torch.is_grad_enabled():
        return gated_linear(*parts)[0]
    c: Tensor = GatedLinear.apply(*parts)  # type: ignore[no-untyped-call]
    return c


def _has_plain_weights(frozen: nn.Module, A: nn.Module) -> bool:
    """Whether a layer's weights are matrices at hand.

    ZeRO-3 gathers a weight only while its own module runs; quantised layers compute with functions
    of their own.
    """
    return type(frozen).__name__ in ("Linear", "Conv1D") and not hasattr(A.weight, "ds_id")


def target_names(llm: nn.Module, wanted: Sequence[str] | str) -> list[str]:
    """Return the last name parts of the linear layers to adapt.

    Raises:
        RecipeError: a name matches nothing in this base model.
    """
    head = llm.get_output_embeddings()  # type: ignore[operator]
    linear = {name.rsplit(".", 1)[-1]: layer for name, layer in linear_layers(llm).items()}
    if isinstance(wanted, str):
        return sorted(n for n, m in linear.items() if wanted == "all" or m is not head)
    missing = [name for name in wanted if name not in linear]
    if missing:
        raise RecipeError(
            f"injection.m3oe.target_modules names {missing}.",
            f"This base model has the linear layers {sorted(linear)}.",
            "Name some of those, or use `attention_mlp`.",
        )
    return list(wanted)


def linear_layers(llm: nn.Module) -> dict[str, Any]:
    """Return the layers that can be adapted, by name; GPT-2's are Conv1D."""
    return {
        name: layer
        for name, layer in llm.named_modules()
        if isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"
    }
