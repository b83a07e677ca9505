"""SLAKE: questions about CT, MRI and X-ray images, in English and Chinese; the English ones.

14,028 questions about 642 images, half of them English. All lie in test: the task is never trained.
A subject is an image; the owner's splits divide by image too. ``-o questions=test`` asks those of
``test.json`` alone.

Written from the published layout, not run on the owner's files.

Source: Liu et al. 2021, https://arxiv.org/abs/2102.09542; https://www.med-vqa.com/slake/
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

TOP = "Slake1.0/"
SPLITS = ("train", "validate", "test")
KEYS = ("img_id", "img_name", "question", "answer", "q_lang", "qid")


class Slake(Importer):
    """One question a row, for ``slake_vqa``."""

    name = "slake"
    title = "SLAKE (English)"
    licence = "CC BY 4.0"
    reference = "Liu et al. 2021, SLAKE, ISBI 1650-1654"
    tasks: ClassVar[tuple[TaskId, ...]] = ("slake_vqa",)
    ids_are_public = True
    test_only = True
    Options = QuestionOptions
    options: QuestionOptions

    def layout(self) -> Sequence[Expected]:
        """Return the three files of questions and the images."""
        tables = [Expected(pattern=f"{self._top}{split}.json", columns=KEYS) for split in SPLITS]
        return [*tables, Expected(pattern=f"{self._top}imgs/*/source.jpg")]

    def spec(self) -> DataSpec:
        """Return grey images."""
        return DataSpec(image=ImageSpec(size_px=self.options.size_px))

    def items(self) -> list[Item]:
        """Return split and place of every question."""
        splits = SPLITS if self.options.questions == "all" else ("test",)
        return [(split, place) for split in splits for place in range(len(self._questions[split]))]

    def rows(self, item: Item) -> Iterator[Row | LeftOut | Rejection]:
        """Yield the question, where it is English."""
        assert isinstance(item, tuple)
        split, place = str(item[0]), int(item[1])
        question = self._questions[split][place]
        if question.get("q_lang") != "en":
            yield LeftOut("question in another language")
            return
        yield from attempt(partial(self._row, question, split), row=place + 1)

    def where(self, item: Item) -> str:
        """Return the file: rejections name the question's number."""
        assert isinstance(item, tuple)
        return f"{self._top}{item[0]}.json"

    def _row(self, question: Mapping[str, Any], split: str) -> Row:
        return Row(
            sample=f"{split}/{question.get('qid')}",
            subject=str(question.get("img_id", "")),
            task="slake_vqa",
            question=str(question.get("question") or "").strip(),
            answer=str(question.get("answer") or ""),
            image=read_image(self.files.read(f"{self._top}imgs/{question.get('img_name')}")),
        )

    @cached_property
    def _top(self) -> str:
        return TOP if self.files.glob(f"{TOP}*.json") else ""

    @cached_property
    def _questions(self) -> dict[str, list[dict[str, Any]]]:
        return {split: json_list(self.files, f"{self._top}{split}.json") for split in SPLITS}


SOURCE = Slake
