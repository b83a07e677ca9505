"""Rows of the demo's five yes/no and two question-answering image tasks, from the chest phantom.

A yes/no task has its own finding in the positives; the others occur beside it now and then, in
positives and negatives alike, so that no task can be read off "anything unusual".
"""

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from fedkim_ray.data.demo.chest_xray import LEFT, RIGHT, Findings, Scanner, draw_chests
from fedkim_ray.types import Task, TaskId

Row = dict[str, object]
FINDING_OF: Mapping[TaskId, str] = {
    "lung_opacity": "opacity",
    "covid19": "covid",
    "enlarged_cardiomediastinum": "wide_mediastinum",
    "atelectasis": "atelectasis",
    "pleural_effusion": "effusion",
}
BYSTANDERS: Mapping[TaskId, Mapping[str, float]] = {
    # Other pneumonias are what COVID-19 has to be told from.
    "covid19": {"opacity": 0.2},
    "enlarged_cardiomediastinum": {"opacity": 0.15},
    "atelectasis": {"opacity": 0.15},
    "pleural_effusion": {"opacity": 0.15},
}
"""How often a finding stands beside the task's own; ``BYSTANDER_SHARE`` where not named."""
BYSTANDER_SHARE = 0.1
COMMON = ("wide_mediastinum", "atelectasis", "effusion")
STRENGTH = (0.4, 1.0)
"""Range of the strength of a finding that is there."""
NAMES = {
    "opacity": "lung opacity",
    "covid": "COVID-19 pneumonia",
    "wide_mediastinum": "mediastinal widening",
    "atelectasis": "atelectasis",
    "effusion": "pleural effusion",
}
NOTHING = "None"
SIDES = {RIGHT: "right", LEFT: "left"}
NOTES = (
    "Adult with cough and fever for four days.",
    "Shortness of breath since yesterday.",
    "Follow-up in intensive care.",
    "Check before an operation.",
    "Chest pain, no fever.",
)
"""Clinical notes: context that gives nothing away."""


def chest_rows(
    task: Task, place: str, scanner: Scanner, num_rows: int, share: float, rng: np.random.Generator
) -> list[Row]:
    """Draw rows of an image task.

    Args:
        task: One of ``FINDING_OF``, or ``med_vqa`` or ``slake_vqa``.
        place: Where the rows will lie; part of their ids.
        scanner: The unit that takes the images.
        num_rows: How many.
        share: Share of positives; ignored by tasks that are no yes/no question.
        rng: Source of everything random.
    """
    if task.kind == "generate":
        return _question_rows(task, place, scanner, num_rows, rng)
    positive = rng.random(num_rows) < share
    findings = _draw_findings(task.id, positive, rng)
    images = draw_chests(findings, scanner, rng)
    return [
        _row(task, place, i, images[i])
        | {"answer": task.answer_words[int(yes)], "label": int(yes), "question": task.question}
        for i, yes in enumerate(positive)
    ]


def _draw_findings(task: TaskId, positive: np.ndarray, rng: np.random.Generator) -> Findings:
    shares = dict.fromkeys(COMMON, BYSTANDER_SHARE) | dict(BYSTANDERS.get(task, {}))
    own = FINDING_OF[task]
    n = len(positive)
    strengths = {}
    for name in NAMES:
        there = positive if name == own else rng.random(n) < shares.get(name, 0.0)
        strengths[name] = np.where(there, rng.uniform(*STRENGTH, n), 0.0)
    return Findings.of(n, **strengths, side=rng.integers(0, 2, n))


def _question_rows(
    task: Task, place: str, scanner: Scanner, num_rows: int, rng: np.random.Generator
) -> list[Row]:
    """Draw images with one finding or none, and a question about each."""
    shown = rng.choice([*NAMES, NOTHING], num_rows)
    side = rng.integers(0, 2, num_rows)
    strengths = {name: 1.0 * (shown == name) for name in NAMES}
    images = draw_chests(Findings.of(num_rows, **strengths, side=side), scanner, rng)
    ask = _clinical_question if task.id == "med_vqa" else _picture_question
    rows = []
    for i, image in enumerate(images):
        question, answer = ask(str(shown[i]), int(side[i]), rng)
        text = str(rng.choice(NOTES))
        rows.append(
            _row(task, place, i, image) | {"question": question, "answer": answer, "text": text}
        )
    return rows


def _clinical_question(shown: str, side: int, rng: np.random.Generator) -> tuple[str, str]:
    """Ask what there is, whether it is there, or where."""
    choice = rng.integers(3)
    if choice == 0:
        name = NAMES.get(shown, NOTHING)
        return "What abnormality does this chest X-ray show?", name[0].upper() + name[1:]
    if choice == 1 and _lungs(shown, side):
        return "Which lung is affected?", _lungs(shown, side)
    asked = shown if shown in NAMES and rng.random() < 0.5 else str(rng.choice(list(NAMES)))
    return f"Is there {NAMES[asked]}?", "Yes" if asked == shown else "No"


def _picture_question(shown: str, side: int, rng: np.random.Generator) -> tuple[str, str]:
    """Ask about the kind of picture, organs, positions, or the health of a lung."""
    choice = rng.integers(4)
    if choice == 0:
        pairs = (
            ("What kind of image is this?", "X-ray"),
            ("Which part of the body is shown?", "Chest"),
            ("Which organ is bright between the lungs?", "Heart"),
        )
        return pairs[rng.integers(3)]
    if choice == 1 and _lungs(shown, side):
        return f"On which side is the {NAMES[shown]}?", _lungs(shown, side)
    asked = SIDES[int(rng.integers(2))]
    ill = _lungs(shown, side) in ("Both", asked.capitalize())
    return f"Does the {asked} lung look healthy?", "No" if ill else "Yes"


def _lungs(shown: str, side: int) -> str:
    """Return which lungs a finding is in, empty for none."""
    if shown in ("opacity", "atelectasis", "effusion"):
        return SIDES[side].capitalize()
    return "Both" if shown == "covid" else ""


def _row(task: Task, place: str, index: int, image: np.ndarray) -> Row:
    name = f"{place}/{index:05d}"
    return {"sample_id": name, "subject_id": name, "task": task.id, "image": png(image)}


def png(grey: np.ndarray) -> bytes:
    """Encode an (S, S) uint8 image as PNG."""
    sink = io.BytesIO()
    Image.fromarray(grey).save(sink, "PNG")
    return sink.getvalue()
