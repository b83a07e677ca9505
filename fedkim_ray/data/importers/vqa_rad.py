"""VQA-RAD: 2,248 questions of clinicians about 315 radiological images.

All questions lie in test: the task is never trained. A subject is what hangs together: an image and
all that a question and its rephrasings (``qid_linked_id``) are about; results are resampled
by subject. ``-o questions=test`` asks those whose ``phrase_type`` starts with "test" alone, 451.

Written from the published layout, not run on the owner's files.

Source: Lau et al. 2018, https://doi.org/10.1038/sdata.2018.251; https://osf.io/89kps/
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar

from fedkim_ray.data.importing.contract import (
    Expected,
    Importer,
    Item,
    LeftOut,
    Rejection,
    Row,
    attempt,
)
from fedkim_ray.data.importing.image_questions import QuestionOptions
from fedkim_ray.data.importing.published import json_list
from fedkim_ray.data.readers.images import read_image
from fedkim_ray.data.schema import DataSpec, ImageSpec
from fedkim_ray.types import TaskId

KEYS = ("qid", "phrase_type", "qid_linked_id", "image_name", "question", "answer")
FOLDERS = ("images", "VQA_RAD Image Folder")
"""Names that the folder of images goes by; the second is the owner's."""
NOT_LINKED = ("", "NULL", "None")
LINK = "\uffff"
"""Marks a link among images, and sorts after them: so an image names the group."""


class VqaRad(Importer):
    """One question a row, for ``med_vqa``."""

    name = "vqa_rad"
    title = "VQA-RAD"
    licence = "CC0 1.0"
    reference = "Lau et al. 2018, Scientific Data 5:180251"
    tasks: ClassVar[tuple[TaskId, ...]] = ("med_vqa",)
    ids_are_public = True
    test_only = True
    Options = QuestionOptions
    options: QuestionOptions

    def layout(self) -> Sequence[Expected]:
        """Return the questions and the images."""
        return [Expected(pattern="*.json", columns=KEYS), Expected(pattern=f"{self._folder}/*.jpg")]

    def spec(self) -> DataSpec:
        """Return grey images."""
        return DataSpec(image=ImageSpec(size_px=self.options.size_px))

    def items(self) -> list[Item]:
        """Return the questions' places in the files."""
        return list(range(len(self._questions)))

    def rows(self, item: Item) -> Iterator[Row | LeftOut | Rejection]:
        """Yield the question."""
        index = int(str(item))
        question = self._questions[index]
        if self.options.questions == "test" and not _is_test(question):
            yield LeftOut("question of the owner's training split")
            return
        yield from attempt(partial(self._row, question), row=index + 1)

    def where(self, item: Item) -> str:
        """Return the files' pattern: rejections name the question's number."""
        return "*.json"

    def _row(self, question: Mapping[str, Any]) -> Row:
        image = str(question.get("image_name") or "")
        return Row(
            sample=str(question.get("qid")),
            subject=self._groups.get(image, ""),
            task="med_vqa",
            question=str(question.get("question") or "").strip(),
            answer=str(question.get("answer") if question.get("answer") is not None else ""),
            image=read_image(self.files.read(f"{self._folder}/{image}")),
        )

    @cached_property
    def _folder(self) -> str:
        return next((f for f in FOLDERS if self.files.glob(f"{f}/*.jpg")), FOLDERS[0])

    @cached_property
    def _questions(self) -> list[dict[str, Any]]:
        return [q for name in self.files.glob("*.json") for q in json_list(self.files, name)]

    @cached_property
    def _groups(self) -> dict[str, str]:
        return group_images(self._questions)


def _is_test(question: Mapping[str, Any]) -> bool:
    return str(question.get("phrase_type")).startswith("test")


def group_images(questions: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return each image's group, named by its first image: linked questions join their images."""
    parent: dict[str, str] = {}

    def top(node: str) -> str:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for question in questions:
        image, link = str(question.get("image_name")), str(question.get("qid_linked_id") or "")
        first, second = top(image), top(image if link in NOT_LINKED else LINK + link)
        parent[max(first, second)] = min(first, second)
    return {node: top(node) for node in parent if not node.startswith(LINK)}


SOURCE = VqaRad
