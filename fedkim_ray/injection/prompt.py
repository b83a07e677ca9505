"""The text around the modality tokens, in the words of the base model's own chat template.

h = [bos, opening of the user's turn ; e ; p_t ; opening of the answer], without a system message.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from fedkim_ray.data.loading import Example
from fedkim_ray.data.modalities import SERIES
from fedkim_ray.data.schema import DataSpec

MARKS = ("FIRSTMARK", "SECONDMARK", "THIRDMARK")


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """What the template puts around a user's words."""

    user_open: str
    """Before the user's words, with bos where the model has one."""
    answer_open: str
    """Between the user's words and the answer."""
    answer_close: str
    """After the answer."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "PromptFormat":
        """Read the format off a chat template; base models without one get plain lines.

        A conversation of three turns is rendered with marks as its words: what stands before the
        third mark and after the second is the end of an answer and the opening of a user's
        turn, free of any default system message.
        """
        bos = tokenizer.bos_token or ""
        if not tokenizer.chat_template:
            return cls(bos, "\n", tokenizer.eos_token or "\n")
        first, second, third = MARKS
        turns = [("user", first), ("assistant", second), ("user", third)]
        messages = [{"role": role, "content": words} for role, words in turns]

        def render(count: int, opened: bool) -> str:
            return str(
                tokenizer.apply_chat_template(
                    messages[:count], tokenize=False, add_generation_prompt=opened
                )
            )

        answer_close = render(2, False).split(second)[1]
        whole = render(3, True)
        user_open = whole.split(second)[1].split(third)[0].removeprefix(answer_close)
        if bos and whole.startswith(bos) and not user_open.startswith(bos):
            user_open = bos + user_open
        return cls(user_open, whole.split(third)[1], answer_close.rstrip() or answer_close)


def prompt_text(question: str, text: str | None) -> str:
    """Return p_t: the row's own text, where it has one, before the question."""
    return f"{text}\n{question}" if text else question


def series_as_text(example: Example, spec: DataSpec) -> str:
    """Write time series in words, for the base model that has no encoders.

    The last observed value of each feature is given; a feature never observed is left out.
    """
    words = []
    for modality in SERIES:
        if modality not in example.arrays:
            continue
        for index, feature in enumerate(spec.series[modality].features):
            hours = example.observed[modality][:, index].nonzero()[0]
            if len(hours):
                value = float(example.arrays[modality][hours[-1], index])
                words.append(f"{feature.name} {value:g} {feature.unit}")
    return ", ".join(words)
