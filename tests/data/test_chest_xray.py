"""The chest phantom: reproducible, and each finding where it belongs."""

import numpy as np
import pytest

from fedkim_ray.data.demo.chest_tasks import FINDING_OF, chest_rows
from fedkim_ray.data.demo.chest_xray import LEFT, RIGHT, Findings, Scanner, draw_chests
from fedkim_ray.data.loading import decode_image
from fedkim_ray.data.tasks import task_table

QUIET = Scanner(noise=0.0)
NUM = 40


def mean_change(finding: str, side: int = RIGHT) -> np.ndarray:
    """Return how much brighter each pixel of the same chests is with the finding, (64, 64)."""

    def draw(strength: float) -> np.ndarray:
        findings = Findings.of(NUM, side=side, **{finding: strength})
        return draw_chests(findings, QUIET, np.random.default_rng(0)).astype(float)

    return (draw(1.0) - draw(0.0)).mean(0)


def test_the_seed_decides_everything() -> None:
    images = [
        draw_chests(Findings.of(3), Scanner(), np.random.default_rng(seed)) for seed in (1, 1, 2)
    ]
    assert images[0].shape == (3, 64, 64)
    assert images[0].dtype == np.uint8
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).mean() > 0.5


def test_lungs_are_darker_than_what_surrounds_them() -> None:
    image = draw_chests(Findings.of(NUM), QUIET, np.random.default_rng(0)).mean(0)
    lung, spine, belly = image[28, 16], image[28, 32], image[58, 20]
    assert lung + 30 < min(spine, belly)


@pytest.mark.parametrize("finding", ["opacity", "atelectasis", "effusion"])
def test_a_one_sided_finding_brightens_its_own_side(finding: str) -> None:
    right, left = mean_change(finding, RIGHT), mean_change(finding, LEFT)
    # The patient's right is on the left of the image.
    assert right[:, :32].mean() > 5 * abs(right[:, 32:].mean())
    assert left[:, 32:].mean() > 5 * abs(left[:, :32].mean())


def test_covid_brightens_both_lungs_near_the_edge() -> None:
    change = mean_change("covid")
    assert change[:, :32].mean() > 1
    assert change[:, 32:].mean() > 1
    assert change[20:36, 6:14].mean() > 2 * change[20:36, 22:28].mean()


def test_a_wide_mediastinum_brightens_the_middle() -> None:
    change = mean_change("wide_mediastinum")
    assert change[14:36, 20:44].mean() > 5
    assert abs(change[:, :12].mean()) < 0.5


def test_effusion_lies_at_the_bottom_of_the_lung() -> None:
    change = mean_change("effusion")
    assert change[36:48, 8:28].mean() > 10 * change[4:20, 8:28].mean()


def test_scanners_differ() -> None:
    pale = Scanner(exposure=0.1, marker=True)
    images = [draw_chests(Findings.of(NUM), s, np.random.default_rng(0)) for s in (Scanner(), pale)]
    assert images[1].mean() > images[0].mean() + 10
    assert (images[1][:, 3:8, 3:6] > 240).all()


@pytest.mark.parametrize("task_id", FINDING_OF)
def test_rows_of_a_yes_no_task(task_id: str) -> None:
    task = task_table()[task_id]
    rows = chest_rows(task, "test/x", Scanner(), 200, 0.3, np.random.default_rng(0))
    assert np.mean([row["label"] for row in rows]) == pytest.approx(0.3, abs=0.1)
    assert all(row["answer"] == task.answer_words[row["label"]] for row in rows)
    assert len({row["subject_id"] for row in rows}) == 200
    assert decode_image(rows[0]["image"], 64).shape == (64, 64)


@pytest.mark.parametrize("task_id", ["med_vqa", "slake_vqa"])
def test_rows_of_a_question_task(task_id: str) -> None:
    rows = chest_rows(
        task_table()[task_id], "test/x", Scanner(), 100, 0.5, np.random.default_rng(0)
    )
    assert len({row["question"] for row in rows}) > 5
    assert all(row["answer"] and row["text"] and "label" not in row for row in rows)
    sided = [row["answer"] for row in rows if str(row["question"]).startswith("Is there")]
    assert set(sided) <= {"Yes", "No"}
