"""SLAKE: questions about CT, MRI and X-ray images, in English and Chinese; the English ones.

14,028 questions about 642 images, half of them English. All lie in test: the task is never trained.
A subject is an image; the owner's splits divide by image too. ``-o questions=test`` asks those of
``test.json`` alone.

Written from the published layout, not run on the owner's files.

Source: Liu et al. 2021, https://arxiv.org/abs/2102.09542; https://www.med-vqa.com/slake/
"""

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

from fedkim_ray.data.importing.contract import Expected
from fedkim_ray.data.importing.image_questions import ImageQuestions, Question
from fedkim_ray.data.importing.published import text_at
from fedkim_ray.types import TaskId

TOP = "Slake1.0/"
SPLITS = ("train", "validate", "test")
KEYS = ("img_id", "img_name", "question", "answer", "q_lang", "qid")


class Slake(ImageQuestions):
    """Questions for ``slake_vqa``."""

    name = "slake"
    title = "SLAKE (English)"
    licence = "CC BY 4.0"
    reference = "Liu et al. 2021, SLAKE, ISBI 1650-1654"
    tasks: ClassVar[tuple[TaskId, ...]] = ("slake_vqa",)
    image_key = "img_name"

    def layout(self) -> Sequence[Expected]:
        """Return the three files of questions and the images."""
        tables = [Expected(pattern=f"{self._top}{split}.json", columns=KEYS) for split in SPLITS]
        return [*tables, Expected(pattern=f"{self._top}imgs/*/source.jpg")]

    def tables(self) -> list[str]:
        """Return the owner's splits, or the one for tests."""
        splits = SPLITS if self.options.questions == "all" else ("test",)
        return [f"{self._top}{split}.json" for split in splits]

    def image_folder(self) -> str:
        """Return the folder with a folder an image."""
        return f"{self._top}imgs"

    def subject_of(self, question: Question) -> str:
        """Return the image's number."""
        return text_at(question, "img_id")

    def why_left_out(self, question: Question) -> str:
        """Leave out the Chinese half."""
        return "" if question.get("q_lang") == "en" else "question in another language"

    @cached_property
    def _top(self) -> str:
        return TOP if self.files.glob(f"{TOP}*.json") else ""


SOURCE = Slake
