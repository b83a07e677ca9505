"""DeepSpeed's configuration from the recipe's injection section: a pure function.

The optimizer is a plain torch Adam handed in by us. DeepSpeed's own (FusedAdam, CPUAdam) compile
C++ on first use, and injection must run where there is no compiler.
"""

from typing import Any

from fedkim_ray.config import InjectionConfig


def deepspeed_config(injection: InjectionConfig, dtype: str) -> dict[str, Any]:
    """Return the dictionary that ``deepspeed.initialize`` takes.

    Args:
        injection: Stage, offload, batch, accumulation, clipping and number of workers.
        dtype: ``float32`` or ``bfloat16``: the parameters' working precision. Masters are float32.
    """
    zero: dict[str, Any] = {"stage": injection.zero_stage}
    if injection.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if injection.offload == "parameters":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_batch_size": injection.batch_size,
        "train_micro_batch_size_per_gpu": injection.batch_size
        // (injection.num_workers * injection.gradient_accumulation),
        "gradient_accumulation_steps": injection.gradient_accumulation,
        "gradient_clipping": injection.gradient_clip,
        "bf16": {"enabled": dtype == "bfloat16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
