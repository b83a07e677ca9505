"""What VQA-RAD and SLAKE share: questions about images in JSON files, answered in a few words.

All lie in test, for their tasks are never trained. A data set of the kind says where its files are,
which image a question is about, and who the subject is.
"""

import posixpath
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

from fedkim_ray.data.importing.contract import Importer, Item, LeftOut, Rejection, Row, attempt
from fedkim_ray.data.importing.published import ImageOptions, json_list, text_at
from fedkim_ray.data.readers.images import read_image
from fedkim_ray.data.reasons import column_at_fault, rejected
from fedkim_ray.data.schema import DataSpec, ImageSpec

Question = Mapping[str, Any]


class QuestionOptions(ImageOptions):
    """Values of ``-o``."""

    questions: Literal["all", "test"] = "all"
    """``test`` asks the owner's test split alone, on which others report."""


class ImageQuestions(Importer):
    """One question a row, of the importer's one task."""

    ids_are_public = True
    test_only = True
    Options = QuestionOptions
    options: QuestionOptions
    image_key: ClassVar[str]
    """Key of the image's name in a question."""

    @abstractmethod
    def tables(self) -> Sequence[str]:
        """Return the files of questions."""

    @abstractmethod
    def image_folder(self) -> str:
        """Return the folder that images are named in."""

    @abstractmethod
    def subject_of(self, question: Question) -> str:
        """Return what is never to be divided; empty where the question does not say."""

    @abstractmethod
    def why_left_out(self, question: Question) -> str:
        """Return why a question is not asked; empty where it is."""

    def spec(self) -> DataSpec:
        """Return grey images."""
        return DataSpec(image=ImageSpec(size_px=self.options.size_px))

    def items(self) -> list[Item]:
        """Return file and place of every question."""
        return [(name, i) for name in self.tables() for i in range(len(self.questions[name]))]

    def rows(self, item: Item) -> Iterator[Row | LeftOut | Rejection]:
        """Yield the question."""
        assert isinstance(item, tuple)
        name, place = str(item[0]), int(item[1])
        question = self.questions[name][place]
        if reason := self.why_left_out(question):
            yield LeftOut(reason)
        else:
            make = partial(self._row, question, name, place + 1)
            yield from attempt(make, row=place + 1)

    def where(self, item: Item) -> str:
        """Return the file: rejections name the question's number."""
        assert isinstance(item, tuple)
        return str(item[0])

    @cached_property
    def questions(self) -> dict[str, list[dict[str, Any]]]:
        """All questions, by file."""
        return {name: json_list(self.files, name) for name in self.tables()}

    def _row(self, question: Question, name: str, number: int) -> Row:
        answer = text_at(question, "answer")
        if not answer:
            raise rejected("label_missing", "answer")
        return Row(
            sample=f"{name}/{text_at(question, 'qid') or number}",
            subject=self.subject_of(question),
            task=self.tasks[0],
            question=text_at(question, "question"),
            answer=answer,
            image=self._image(text_at(question, self.image_key)),
            line=number,
        )

    def _image(self, name: str) -> Any:
        with column_at_fault(self.image_key):
            return read_image(self.files.read(posixpath.join(self.image_folder(), name)))
