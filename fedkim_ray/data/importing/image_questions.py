"""What VQA-RAD and SLAKE share: questions about images, answered in a few words."""

from typing import Literal

from fedkim_ray.data.importing.published import ImageOptions


class QuestionOptions(ImageOptions):
    """Values of ``-o``."""

    questions: Literal["all", "test"] = "all"
    """``test`` asks the owner's test split alone, on which others report."""
