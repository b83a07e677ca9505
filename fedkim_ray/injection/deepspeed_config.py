"""DeepSpeed's configuration from the recipe's injection section: a pure function.

The optimizer is a plain torch Adam handed in by us. DeepSpeed's own (FusedAdam, CPUAdam) compile
C++ on first use, and injection must run where there is no compiler.
"""

from typing import Any

from fedkim_ray.config import InjectionConfig

LOSS_SCALING = {"loss_scale": 0, "initial_scale_power": 16, "loss_scale_window": 500}
"""float16 gradients below 6e-8 are zero, so the loss is multiplied, here by 2^16 at first; 0 lets
DeepSpeed halve the factor when a gradient overflows and double it after so many good steps."""


def deepspeed_config(injection: InjectionConfig, dtype: str) -> dict[str, Any]:
    """Return the dictionary that ``deepspeed.initialize`` takes.

    Args:
        injection: Stage, offload, batch, accumulation, clipping and number of workers.
        dtype: ``float32``, ``bfloat16`` or ``float16``: the parameters' working precision. Masters
            are float32.
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
        "fp16": {"enabled": dtype == "float16", **LOSS_SCALING},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
