"""VQA-RAD: 2,248 questions of clinicians about 315 radiological images.

All questions lie in test: the task is never trained. A subject is what hangs together: an image and
all that a question and its rephrasings (``qid_linked_id``) are about; results are resampled
by subject. ``-o questions=test`` asks those whose ``phrase_type`` starts with "test" alone, 451.

Written from the published layout, not run on the owner's files.

Source: Lau et al. 2018, https://doi.org/10.1038/sdata.2018.251; https://osf.io/89kps/
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import ClassVar

from fedkim_ray.data.importing.contract import Expected
from fedkim_ray.data.importing.image_questions import ImageQuestions, Question
from fedkim_ray.data.importing.published import text_at
from fedkim_ray.types import TaskId

KEYS = ("qid", "phrase_type", "qid_linked_id", "image_name", "question", "answer")
FOLDERS = ("images", "VQA_RAD Image Folder")
"""Names that the folder of images goes by; the second is the owner's."""
NOT_LINKED = ("", "NULL", "None")
LINK = "\uffff"
"""Marks a link among images, and sorts after them: so an image names the group."""


class VqaRad(ImageQuestions):
    """Questions for ``med_vqa``."""

    name = "vqa_rad"
    title = "VQA-RAD"
    licence = "CC0 1.0"
    reference = "Lau et al. 2018, Scientific Data 5:180251"
    tasks: ClassVar[tuple[TaskId, ...]] = ("med_vqa",)
    image_key = "image_name"

    def layout(self) -> Sequence[Expected]:
        """Return the questions and the images."""
        images = f"{self.image_folder()}/*.jpg"
        return [Expected(pattern="*.json", columns=KEYS), Expected(pattern=images)]

    def tables(self) -> list[str]:
        """Return the one file, whatever its name."""
        return self.files.glob("*.json")

    def image_folder(self) -> str:
        """Return the owner's folder, or as it is called after unpacking."""
        return self._folder

    def subject_of(self, question: Question) -> str:
        """Return the group of images that hang together."""
        return self._groups.get(text_at(question, "image_name"), "")

    def why_left_out(self, question: Question) -> str:
        """Leave out the owner's training split, if asked to."""
        is_test = text_at(question, "phrase_type").startswith("test")
        leave = self.options.questions == "test" and not is_test
        return "question of the owner's training split" if leave else ""

    @cached_property
    def _folder(self) -> str:
        return next((f for f in FOLDERS if self.files.glob(f"{f}/*.jpg")), FOLDERS[0])

    @cached_property
    def _groups(self) -> dict[str, str]:
        return group_images(q for questions in self.questions.values() for q in questions)


def group_images(questions: Iterable[Question]) -> dict[str, str]:
    """Return each image's group, named by its first image: linked questions join their images."""
    parent: dict[str, str] = {}

    def top(node: str) -> str:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for question in questions:
        image, link = text_at(question, "image_name"), text_at(question, "qid_linked_id")
        first, second = top(image), top(image if link in NOT_LINKED else LINK + link)
        parent[max(first, second)] = min(first, second)
    return {node: top(node) for node in parent if node and not node.startswith(LINK)}


SOURCE = VqaRad
