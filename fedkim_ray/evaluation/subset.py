"""A fixed subset of all test questions, the same for every model that is scored on it."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from fedkim_ray.errors import RecipeError
from fedkim_ray.types import TaskId


def fixed_subset(
    labels: Mapping[TaskId, Sequence[int | None]],
    max_questions: int | None,
    shares: Mapping[TaskId, float] | None = None,
) -> dict[TaskId, np.ndarray]:
    """Choose which rows of each task to ask.

    Each task gets its share of ``max_questions``; what a small task cannot use goes to the
    others. Within a task the labels keep their balance, and rows are drawn by fixed random
    numbers and not by a stride, which could fall in step with the order of the file.

    Args:
        labels: Each task's labels, None where it has none; their number is the task's size.
        max_questions: Rows to choose over all tasks; all where None.
        shares: Relative shares of the tasks; 1 where absent.

    Returns:
        Sorted row numbers by task.
    """
    sizes = {task: len(values) for task, values in labels.items()}
    quotas = _quotas(sizes, max_questions, shares or {})
    return {task: _balanced_rows(labels[task], quotas[task]) for task in labels}


def require_question_each(tasks: Collection[TaskId], max_questions: int | None) -> None:
    """Refuse a number of questions that leaves some task without any.

    Raises:
        RecipeError: it is smaller than the number of tasks.
    """
    if max_questions is not None and max_questions < len(tasks):
        raise RecipeError(
            f"max_questions is {max_questions} for {len(tasks)} tasks ({', '.join(tasks)}).",
            "Each task that is asked gets at least one question.",
            "Raise max_questions, or ask fewer tasks.",
        )


def _quotas(
    sizes: Mapping[TaskId, int], max_questions: int | None, shares: Mapping[TaskId, float]
) -> dict[TaskId, int]:
    """Split ``max_questions`` by share, no task above its size, nothing left over."""
    quotas = dict(sizes)
    if max_questions is None or max_questions >= sum(sizes.values()):
        return quotas
    left = max_questions
    # Tasks that fit into their share whole go first: what they leave is shared by the others.
    order = sorted(sizes, key=lambda t: sizes[t] / shares.get(t, 1.0))
    for place, task in enumerate(order):
        share = shares.get(task, 1.0) / sum(shares.get(t, 1.0) for t in order[place:])
        quotas[task] = min(sizes[task], int(left * share))
        left -= quotas[task]
    return quotas


def _balanced_rows(labels: Sequence[int | None], quota: int) -> np.ndarray:
    """Take every n-th of the shuffled rows laid out by label."""
    size = len(labels)
    shuffled = np.random.default_rng(0).permutation(size)
    key = np.array([-1 if label is None else label for label in labels], dtype=int)
    by_label = shuffled[np.argsort(key[shuffled], kind="stable")]
    places = ((np.arange(quota) + 0.5) * size / max(quota, 1)).astype(int)
    rows: np.ndarray = np.sort(by_label[places])
    return rows
