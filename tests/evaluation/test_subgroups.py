"""Metrics by sex, age band and site."""

import pyarrow as pa

from fedkim_ray.data.tasks import TASKS
from fedkim_ray.evaluation.answers import ANSWERS
from fedkim_ray.evaluation.judge import metrics_of
from fedkim_ray.evaluation.results import Subgroup
from fedkim_ray.evaluation.subgroups import MIN_SUBJECTS, subgroups_of

MORTALITY = next(task for task in TASKS if task.id == "mortality")


def answers(sexes: list[str | None], ages: list[int | None], right: list[bool]) -> pa.Table:
    """Subject k: label k mod 2, answered with certainty, rightly or wrongly."""
    rows = []
    for k, (sex, age, is_right) in enumerate(zip(sexes, ages, right, strict=True)):
        said = k % 2 if is_right else 1 - k % 2
        rows.append(
            {
                "subject_id": f"p{k:02d}",
                "label": k % 2,
                "probability_yes": float(said),
                "said": MORTALITY.answer_words[said],
                "sex": sex,
                "age_years": age,
            }
        )
    return pa.Table.from_pylist(rows, ANSWERS)


def groups(table: pa.Table) -> dict[str, Subgroup]:
    found = subgroups_of(table, lambda rows: metrics_of(rows, MORTALITY, num_draws=20))
    return {f"{g.trait} {g.level}": g for g in found}


def test_each_group_has_its_own_metrics() -> None:
    # Ten women, all answered rightly; ten men, all wrongly; one of neither, rightly.
    sexes: list[str | None] = ["female"] * 10 + ["male"] * 10 + [None]
    found = groups(answers(sexes, [50] * 20 + [None], [True] * 10 + [False] * 10 + [True]))
    assert {name: g.num_questions for name, g in found.items()} == {
        "sex female": 10,
        "sex male": 10,
        "age 40-64": 20,
    }
    assert [*found] == ["sex female", "sex male", "age 40-64"]
    values = {name: g.metrics["auroc"].value for name, g in found.items()}
    # All together: a positive is above a negative in 25 of 100 pairs, and on a par in 50.
    assert values == {"sex female": 1.0, "sex male": 0.0, "age 40-64": 0.5}


def test_bands_come_in_their_order_and_few_subjects_are_not_scored() -> None:
    ages: list[int | None] = [85, *[70] * MIN_SUBJECTS, 7, 30]
    size = len(ages)
    found = groups(answers([None] * size, ages, [True] * size))
    assert [*found] == ["age 0-17", "age 18-39", "age 65-79", "age 80+"]
    scored = {name for name, g in found.items() if g.metrics}
    assert scored == {"age 65-79"}


def test_data_that_state_nothing_have_no_groups() -> None:
    assert groups(answers([None] * 4, [None] * 4, [True] * 4)) == {}
