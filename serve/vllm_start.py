"""Start vLLM's asynchronous engine over a base model, with room for folded adapters.

GPU settings are thin and have not been run on a GPU.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from transformers import AutoConfig

from fedkim_ray.errors import EnvironmentProblemError
from fedkim_ray.types import Frozen

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Adapter ranks that vLLM makes room for."""


class VllmSettings(Frozen):
    """What one replica's vLLM may take."""

    max_adapters: PositiveInt = 16
    """Folded adapters kept on a replica; the least recently used go first."""
    adapters_per_batch: PositiveInt = 4
    """Different adapters in one forward pass; room for so many is taken at the start."""
    max_positions: PositiveInt | None = None
    """Positions of question and answer together; the base model's own limit where null."""
    kv_cache_gib: PositiveInt = 1
    """Memory for keys and values on CPU, in GiB."""
    gpu_memory_share: NonNegativeFloat = 0.9
    """Share of a GPU's memory for weights, keys and values."""


def rank_room(rank: int) -> int:
    """Return the smallest rank that vLLM offers and that holds an adapter's.

    Raises:
        EnvironmentProblemError: the adapter's rank is larger than all of them.
    """
    fitting = [room for room in RANKS if room >= rank]
    if not fitting:
        raise EnvironmentProblemError(
            f"The bundle's adapter has rank {rank}.",
            f"vLLM runs adapters up to rank {RANKS[-1]}.",
            "Serve with the engine `transformers`.",
        )
    return fitting[0]


def start_vllm(
    base: Path,
    settings: VllmSettings,
    *,
    dtype: str,
    rank: int | None,
    layers: Sequence[str],
    positions: int,
    max_batch: int,
    threads: int,
) -> Any:
    """Return a running ``AsyncLLM``; it takes half a minute.

    Args:
        base: The base model's folder.
        settings: What it may take.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        rank: Largest rank of an adapter; None where there is no adapter.
        layers: Last name parts of the adapted layers.
        positions: Positions of question and answer together.
        max_batch: Answers under way at once.
        threads: Threads on CPU.

    Raises:
        EnvironmentProblemError: vLLM does not start with this model or this much memory.
    """
    _set_environment(settings, threads)
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    if not torch.cuda.is_available():
        _require_head_width(base)
    adapters = {} if rank is None else _adapter_args(settings, rank, layers)
    try:
        args = AsyncEngineArgs(
            model=str(base),
            skip_tokenizer_init=True,
            dtype=dtype,
            enable_prompt_embeds=True,
            enable_prefix_caching=False,  # prompts share no more than the turn's opening
            enforce_eager=not torch.cuda.is_available(),
            max_model_len=positions,
            max_num_seqs=max_batch,
            gpu_memory_utilization=settings.gpu_memory_share,
            disable_log_stats=True,
            **adapters,
        )
        return AsyncLLM.from_engine_args(args)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise EnvironmentProblemError(
            f"vLLM does not start: {str(error).splitlines()[0][:300]}",
            "It runs this base model with adapters in the memory that it is given.",
            "See the replica's log; lower max_positions, or serve with the engine `transformers`.",
        ) from error


def _require_head_width(base: Path) -> None:
    """Refuse what vLLM's CPU attention would die of at the first question."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    config = AutoConfig.from_pretrained(base)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    known = CPUAttentionBackend.get_supported_head_sizes()
    if width not in known:
        raise EnvironmentProblemError(
            f"The base model's attention heads are {width} wide.",
            f"vLLM on CPU computes heads of {', '.join(map(str, known))}.",
            "Serve with the engine `transformers`.",
        )


def _adapter_args(settings: VllmSettings, rank: int, layers: Sequence[str]) -> dict[str, Any]:
    return {
        # Left to itself, vLLM adapts the input embeddings, too, and dies where a step reads both
        # prompt embeddings and generated tokens.
        "lora_target_modules": list(layers),
        "enable_lora": True,
        "max_lora_rank": rank_room(rank),
        "max_loras": min(settings.adapters_per_batch, settings.max_adapters),
        "max_cpu_loras": settings.max_adapters,
    }


def _set_environment(settings: VllmSettings, threads: int) -> None:
    """Say what vLLM reads from its environment alone; it must not have been imported before."""
    os.environ.update(
        VLLM_NO_USAGE_STATS="1",  # nothing leaves this machine
        VLLM_LOGGING_LEVEL="WARNING",
        VLLM_WORKER_MULTIPROC_METHOD="spawn",
    )
    if not torch.cuda.is_available():
        os.environ.update(
            VLLM_CPU_KVCACHE_SPACE=str(settings.kv_cache_gib),
            VLLM_CPU_OMP_THREADS_BIND="nobind",  # replicas share a machine: Ray places them
            OMP_NUM_THREADS=str(threads),
        )
