"""Names for the values that travel between folders."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:  # processes that hold no tensor start without torch
    from torch import Tensor

ClientId: TypeAlias = str
TaskId: TypeAlias = str
Modality: TypeAlias = str
LabelSelector: TypeAlias = dict[
    str, Annotated[str, Field(pattern=r"^!?([\w.-]+|in\([\w.-]+(, ?[\w.-]+)*\))$")]
]
"""Ray node labels that a process asks of its node: ``x``, ``!x``, ``in(x, y)`` or ``!in(x, y)``."""
Params: TypeAlias = Mapping[str, "Tensor"]
"""Parameter tensors by name; the first two dotted parts of a name are its parameter group."""

SUBMISSION_PREFIX = "fedkim-job-"
"""What the id of a run that was submitted to a cluster begins with."""


class Frozen(BaseModel):
    """A validated, immutable value; an unknown field is an error, not a surprise."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Task(Frozen):
    """One medical task: what is asked, about which modalities, and how it is answered."""

    id: TaskId = Field(pattern=r"^[a-z][a-z0-9_]*$")
    role: Literal["train", "unseen"]
    """``train``: clients and injection learn it. ``unseen``: it is only ever asked (zero-shot)."""
    modalities: tuple[Modality, ...] = Field(min_length=1)
    kind: Literal["yes_no", "generate"] = "yes_no"
    description: str = Field(min_length=1)
    """T_t, the text that routes the task: it enters K and V of the router."""
    question: str = Field(min_length=1)
    """p_t, the prompt after the modality tokens, where a row carries no question of its own."""
    rewordings: tuple[str, ...] = ()
    """The question in other words; an import may deal them out, so that no wording is learnt."""
    answer_words: tuple[str, str] = ("No", "Yes")
    """Answers for label 0 and label 1 of a yes/no task, most natural spelling."""
    metrics: tuple[str, ...] = ()
    """What reports show of its answers, the first above all; the usual ones where empty."""
    source: str = ""
    """The data set the paper takes this task from."""
    split_by: str = "subject"
    """The unit that never appears in two splits."""


def param_group(name: str) -> str:
    """Return the parameter group of ``name``: ``encoders.image.stem.weight`` -> ``encoders.image``.

    Aggregation averages group by group, so that a client without a modality neither adds to
    its encoder nor dilutes it.
    """
    return ".".join(name.split(".")[:2])
