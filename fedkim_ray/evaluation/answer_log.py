"""Answers as they come, so that an evaluation that was killed goes on where it stopped.

The first line says what is being asked of which model; the others are one answer each. A log of
anything else is begun anew. The log goes once the report, which has every answer, is written.

An object store takes no line more: its log is written anew, and so not for each batch, but whenever
it has grown by a tenth. All writes together are then some ten times the log, however long it gets,
and a tenth of the answers is the most that is asked again.
"""

import json
from collections.abc import Mapping
from typing import Any

from fedkim_ray.evaluation.answers import Answer
from fedkim_ray.storage import Folder
from fedkim_ray.types import TaskId

LOG = "answers.jsonl"
REWRITTEN_SHARE = 0.1
"""Share of all answers that an object store's log may lack."""
Asked = tuple[TaskId, int]
"""A task and the row of its questions."""


class AnswerLog:
    """The answers so far.

    Args:
        folder: Where the log lies.
        facts: All that the answers depend on, in JSON's values.
    """

    def __init__(self, folder: Folder, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        self.answers: dict[Asked, Answer] = {}
        self._unwritten: list[str] = []
        lines = self._whole_lines()
        if not lines or lines[0] != _line(facts):
            lines = [_line(facts)]
        for line in lines[1:]:
            values = json.loads(line)
            asked = values.pop("task"), values.pop("row")
            self.answers[asked] = Answer(**values)
        folder.write_bytes(LOG, "".join(f"{line}\n" for line in lines).encode())

    def add(self, answers: Mapping[Asked, Answer]) -> None:
        """Keep a batch's answers."""
        self.answers.update(answers)
        self._unwritten += [
            _line(
                {
                    "task": task,
                    "row": row,
                    "said": a.said,
                    "reading": a.reading,
                    "probability_yes": a.probability_yes,
                }
            )
            for (task, row), a in answers.items()
        ]
        few = len(self._unwritten) < REWRITTEN_SHARE * len(self.answers)
        if self.folder.is_local or not few:
            self.folder.append_line(LOG, "\n".join(self._unwritten))
            self._unwritten.clear()

    def _whole_lines(self) -> list[str]:
        """Return the lines that were written whole: a process may have died in the last."""
        if not self.folder.exists(LOG):
            return []
        text = self.folder.read_bytes(LOG).decode(errors="replace")
        return text[: text.rfind("\n") + 1].splitlines()


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)
