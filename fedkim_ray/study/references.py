"""Supervised references beside the variants: what injection costs against a specialist."""

from collections.abc import Mapping

import pyarrow as pa

from fedkim_ray.config import Recipe
from fedkim_ray.data.modalities import SERIES
from fedkim_ray.data.root import read_card
from fedkim_ray.evaluation.baselines import LOGISTIC, logistic_answers, pooled_training_sets
from fedkim_ray.evaluation.evaluate import load_questions
from fedkim_ray.pipeline import RunPlan
from fedkim_ray.storage import Folder
from fedkim_ray.types import Task


def reference_answers(recipe: Recipe, plan: RunPlan) -> Mapping[str, pa.Table]:
    """Return each reference's answers to the questions that the variants are asked.

    Tasks without tables have no logistic regression; with none of them it is left out.
    """
    root = Folder.at(recipe.data.root)
    card = read_card(root)
    tables = [task for task in plan.trained if _has_tables(task, plan)]
    if not tables:
        return {}
    test = load_questions(
        root, card.spec, plan.tasks, max_questions=recipe.evaluation.max_questions
    )
    parts = [
        logistic_answers(task, pooled_training_sets(root, card, task.id), test.samples[task.id])
        for task in tables
        if task.id in test.samples
    ]
    return {LOGISTIC: pa.concat_tables(parts)} if parts else {}


def _has_tables(task: Task, plan: RunPlan) -> bool:
    return bool(set(task.modalities) & set(SERIES) & set(plan.card.spec.series))
