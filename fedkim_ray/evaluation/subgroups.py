"""A task's metrics by sex, age band and site, where the data state them.

Differences between groups are described and not explained: groups differ in more than the trait,
and many are looked at. A group of few subjects is counted and not scored: its interval would say
nothing, and its members might be known.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import pyarrow as pa

from fedkim_ray.data.traits import age_band
from fedkim_ray.evaluation.bootstrap import MIN_SUBJECTS, Estimate
from fedkim_ray.evaluation.results import Subgroup
from fedkim_ray.types import TaskId

Trait = Literal["sex", "age", "site"]
Score = Callable[[pa.Table], Mapping[str, Estimate]]


def subgroups_of(rows: pa.Table, score: Score) -> tuple[Subgroup, ...]:
    """Return the groups of one task's rows of an answers table.

    Args:
        rows: Those whose trait is not stated are in no group of it.
        score: Gives the metrics of some of the rows.
    """
    return tuple(
        _subgroup(trait, level, rows.filter([own == level for own in levels]), score)
        for trait, levels in _levels(rows)
        for level in _in_order({level for level in levels if level is not None})
    )


def few_subjects(num_subjects: Mapping[TaskId, int]) -> str:
    """Say which tasks have too few subjects to decide a comparison; empty where none has."""
    few = [f"{task} ({num})" for task, num in num_subjects.items() if num < MIN_SUBJECTS]
    return f"Fewer than {MIN_SUBJECTS} subjects decide nothing: {', '.join(few)}." if few else ""


def _levels(rows: pa.Table) -> Iterator[tuple[Trait, list[str | None]]]:
    """Yield each trait with every row's level of it, None where not stated."""
    yield "sex", rows["sex"].to_pylist()
    ages = rows["age_years"].to_pylist()
    yield "age", [None if years is None else age_band(years) for years in ages]
    yield "site", rows["site"].to_pylist()


def _in_order(levels: set[str]) -> Sequence[str]:
    """Return bands by their first year, ``0-17`` before ``18-39``, and names by the alphabet."""

    def first(level: str) -> int:
        year = level.removesuffix("+").split("-")[0]
        return int(year) if year.isdigit() else 0

    return sorted(levels, key=lambda level: (first(level), level))


def _subgroup(trait: Trait, level: str, rows: pa.Table, score: Score) -> Subgroup:
    num_subjects = len(rows["subject_id"].unique())
    return Subgroup(
        trait=trait,
        level=level,
        num_questions=rows.num_rows,
        num_subjects=num_subjects,
        metrics=dict(score(rows)) if num_subjects >= MIN_SUBJECTS else {},
    )
