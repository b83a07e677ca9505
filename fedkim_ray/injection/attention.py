"""Which attention the language model computes: a CPU trains short sequences without the fused one.

PyTorch's fused attention keeps no table of weights, which pays on long sequences. On short ones
its backward pass on a CPU takes several times what plain products take, above all in bfloat16; it
is even with them at about 200 positions.
"""

from torch import Tensor
from transformers import PreTrainedModel

FUSED, PLAIN = "sdpa", "eager"
"""transformers' names."""
SHORT_POSITIONS = 192


def choose_attention(llm: PreTrainedModel, h_BLE: Tensor, is_trained: bool) -> None:
    """Let the model compute its attention in the faster way for these inputs.

    Args:
        llm: The language model, loaded with fused attention.
        h_BLE: What it will read.
        is_trained: Whether a backward pass follows.
    """
    is_short = h_BLE.device.type == "cpu" and h_BLE.shape[1] <= SHORT_POSITIONS
    wanted = PLAIN if is_trained and is_short else FUSED
    if llm.config._attn_implementation != wanted:
        llm.set_attn_implementation(wanted)
