"""A study: variants of one recipe, each with several seeds, as ordinary runs in one folder.

runs/<variant>/seed-<k>/     a run's folder, as ``fedkim run`` leaves it, with its evaluation
comparison.json              ``StudyReport``: every number, with the settings that gave it
comparison.html, .md, .svg, .png    the same for people
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedkim_ray.config import Recipe
from fedkim_ray.errors import RecipeError
from fedkim_ray.evaluation.results import REPORT, EvaluationReport, read_report
from fedkim_ray.evaluation.subset import require_question_each
from fedkim_ray.pipeline import RunPlan, plan_run
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.run_folder import RUN_FILE, RunFolder
from fedkim_ray.storage import Folder
from fedkim_ray.types import TaskId


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of a study."""

    variant: str
    seed: int
    recipe: Recipe
    folder: Folder
    asked: tuple[TaskId, ...]
    """Tasks that its bundle is asked."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints of its data root's folders when the study was planned."""

    @property
    def is_evaluated(self) -> bool:
        """Whether there is nothing left to do: it was asked these tasks, and no others.

        The tasks share ``evaluation.max_questions``: with others beside them the questions differ.
        """
        if not (self.folder / "evaluation").exists(REPORT):
            return False
        return {t.task for t in self.report().tasks} == {*self.asked}

    def report(self) -> EvaluationReport:
        """Return what the evaluation found.

        Raises:
            StorageError: there is none yet, or it was altered.
        """
        return read_report(self.folder / "evaluation")


def plan_study(
    out: str,
    recipe: str,
    variants: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    tasks: Sequence[TaskId] | None = None,
) -> list[PlannedRun]:
    """Resolve every run of a study and hold it against data and base model, before any starts.

    Args:
        out: The study's folder, any fsspec URL.
        recipe: A packaged recipe's name, or a path.
        variants: Keys of ``config.VARIANTS``; the first is what the others are held against.
        seeds: Training seeds.
        overrides: ``a.b=value`` each, for all runs.
        tasks: Tasks to ask; all that the data root has test data of where None.

    Raises:
        RecipeError: a variant, field or value is impossible, or nothing is left to compare.
        DataError: the data root lacks something.
        StorageError: a run of another recipe, or of other data, lies in the study's folder.
    """
    if not variants or not seeds or len({*variants}) < len(variants) or len({*seeds}) < len(seeds):
        raise RecipeError(
            f"The study has the variants {list(variants)} and the seeds {list(seeds)}.",
            "It has at least one of each, and none twice.",
            "Correct --variants or --seeds.",
        )
    runs = []
    for seed in seeds:
        for variant in variants:
            loaded = load_recipe(recipe, [*overrides, f"seed={seed}"], variant)
            folder = Folder.at(out) / f"runs/{variant}/seed-{seed}"
            plan = plan_run(loaded)
            asked, data = _asked(plan, loaded, tasks), plan.card.fingerprints
            runs.append(PlannedRun(variant, seed, loaded, folder, asked, data))
            if folder.exists(RUN_FILE):
                RunFolder.open(folder.url, loaded).require_data(data)
    return runs


def first_round_inputs(recipe: Recipe) -> dict[str, Any]:
    """Return all of a recipe that the clients' first round depends on, in plain values.

    Injection comes after it, and how many rounds follow changes nothing.
    """
    parts = {"seed", "data", "encoders", "tasks", "federation"}
    values = recipe.model_dump(mode="json", include=parts)
    del values["federation"]["rounds"]
    return values


def _asked(plan: RunPlan, recipe: Recipe, wanted: Sequence[TaskId] | None) -> tuple[TaskId, ...]:
    """Hold the wanted tasks against the data; return the tasks to ask."""
    present = plan.with_questions
    if wrong := [task for task in wanted or () if task not in present]:
        raise RecipeError(
            f"The study is to ask the tasks {wrong}.",
            f"The data root has test data of {', '.join(present) or 'none'}.",
            "Correct --tasks.",
        )
    asked = tuple(wanted or present)
    require_question_each(asked, recipe.evaluation.max_questions)
    return asked
