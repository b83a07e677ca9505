"""Which engine answers: the configuration decides, and ``auto`` prefers vLLM where it can run."""

import importlib.util
from typing import Literal

from fedkim_ray.errors import EnvironmentProblemError

EngineName = Literal["transformers", "vllm"]
WantedEngine = Literal["auto", "transformers", "vllm"]


def choose_engine(wanted: WantedEngine, num_gpus: float, has_vllm: bool) -> EngineName:
    """Return the engine to start.

    Args:
        wanted: What the configuration says.
        num_gpus: GPUs of one replica of the model.
        has_vllm: Whether vLLM is installed here.

    Raises:
        EnvironmentProblemError: vLLM is wanted and is not installed.
    """
    if wanted == "transformers":
        return "transformers"
    if wanted == "vllm" and not has_vllm:
        raise EnvironmentProblemError(
            "The engine is to be vllm, which is not installed.",
            "On GPUs it comes with the extra `vllm`, on CPU with cluster/vllm_env.sh.",
            "Install it, or serve with the engine `transformers`.",
        )
    # vLLM's LoRA kernels are made for GPUs: on CPU it runs only where it is asked for by name.
    return "vllm" if wanted == "vllm" or (has_vllm and num_gpus > 0) else "transformers"


def has_vllm() -> bool:
    """Whether vLLM is installed, without importing it."""
    return importlib.util.find_spec("vllm") is not None
