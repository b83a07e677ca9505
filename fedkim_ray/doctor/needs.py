"""What a recipe will ask of the machines: bytes to send, memory to hold, disk to fill."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from fedkim_ray.config import Recipe
from fedkim_ray.data.root import DatasetCard
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.federation.sizing import client_worker_bytes, control_bytes, transfers
from fedkim_ray.federation.wire import encode_params
from fedkim_ray.injection.base_model import empty_base, working_dtype
from fedkim_ray.injection.m3oe import linear_layers, target_names
from fedkim_ray.types import ClientId, Frozen, Task

PROCESS_BYTES = 800 * 2**20
"""An injection worker with torch, and its share of Ray Train's controller and helpers."""
ADAM_COPIES = 4
"""Weights, gradients and Adam's two moments, all float32."""
PACKED_BITS = {"8bit": 8.0, "4bit": 4.127}
"""Bits of a packed number; NF4's scales, which are packed too, take 0.127 of them."""
DECODED = 4
"""Bytes in memory for a byte of a Parquet file; encoded images and zstd columns unfold."""


class Needs(Frozen):
    """What one run asks for, in bytes."""

    global_model: int
    """Encoders and heads as they travel to a client, and as an update comes back."""
    round_traffic: int
    """Both ways, all clients, training and scoring."""
    client_memory: dict[ClientId, int]
    """Of a client's worker, its data, and a Ray Train run's controller and helpers if it is one."""
    injection_memory: int
    """Of one injection worker."""
    run_disk: int
    """The whole run folder, all rounds."""


def needs_of(
    recipe: Recipe, card: DatasetCard, tasks: tuple[Task, ...], base: Path, clients: list[ClientId]
) -> Needs:
    """Return what a run of ``recipe`` asks for.

    Args:
        recipe: The run.
        card: Of its data root; sizes are read there, private files are not opened.
        tasks: The trained tasks.
        base: Folder of the base model.
        clients: Who takes part.
    """
    light = LightModel(recipe.encoders, card.spec, tasks)
    model = len(encode_params(light.params()))
    beside_data = client_worker_bytes(light) + control_bytes(recipe.federation)
    llm = empty_base(base)
    frozen_bytes, adapter_bytes = _frozen_bytes(llm, recipe), 4 * _adapter_parameters(llm, recipe)
    num_down, num_up = transfers(recipe.federation, len(clients))
    per_round = 2 * model + 3 * adapter_bytes  # aggregated, injected; weights and Adam's moments
    return Needs(
        global_model=model,
        round_traffic=model * (num_down + num_up),
        client_memory={
            client: beside_data + DECODED * _data_bytes(card, client) for client in clients
        },
        injection_memory=PROCESS_BYTES + frozen_bytes + ADAM_COPIES * (adapter_bytes + model),
        run_disk=recipe.federation.rounds * per_round + 2 * adapter_bytes,
    )


def _data_bytes(card: DatasetCard, client: ClientId) -> int:
    own = f"clients/{client}/"
    return sum(fact.size_bytes for name, fact in card.files.items() if name.startswith(own))


def _frozen_bytes(llm: PreTrainedModel, recipe: Recipe) -> int:
    """Return what the frozen base takes; all but its blocks' linear layers stays unpacked."""
    dtype = working_dtype(recipe.base.dtype, recipe.injection.use_gpu)
    plain_bits = 8 * getattr(torch, dtype).itemsize
    linear_bits = PACKED_BITS.get(recipe.base.quantization, plain_bits)
    head = llm.get_output_embeddings()
    linear = sum(w.weight.numel() for w in linear_layers(llm).values() if w is not head)
    others = sum(p.numel() for p in llm.parameters()) - linear
    return int(plain_bits * others + linear_bits * linear) // 8


def _adapter_parameters(llm: PreTrainedModel, recipe: Recipe) -> int:
    """Count A's and B's numbers: a layer of I x O has R * (I + O)."""
    m3oe = recipe.injection.m3oe
    names = target_names(llm, m3oe.target_modules)
    widths: list[int] = [
        sum(layer.weight.shape)
        for name, layer in linear_layers(llm).items()
        if name.rsplit(".", 1)[-1] in names
    ]
    rank = 0 if recipe.injection.adapter == "none" else m3oe.num_experts * m3oe.rank
    return rank * sum(widths)
