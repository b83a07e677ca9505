"""Evaluate a bundle on the test splits of a data root."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from fedkim_ray.bundle.read import LoadedBundle
from fedkim_ray.config import EvaluationConfig
from fedkim_ray.data.loading import SampleSet, load_samples, require_task
from fedkim_ray.data.root import DatasetCard, read_card, require_listed
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.errors import DataError, RecipeError
from fedkim_ray.evaluation.answer_log import AnswerLog
from fedkim_ray.evaluation.expert_removal import num_routed_experts, removal_effects
from fedkim_ray.evaluation.judge import QuestionSet, judge
from fedkim_ray.evaluation.results import EvaluationReport, ExpertRemoval, TaskResult
from fedkim_ray.evaluation.routing import routing_of
from fedkim_ray.evaluation.scoring import AskBatches, OnProgress, Read, score_samples
from fedkim_ray.evaluation.subset import fixed_subset, require_question_each
from fedkim_ray.storage import Folder
from fedkim_ray.types import Task, TaskId


def evaluate_bundle(
    bundle: LoadedBundle,
    root: Folder,
    config: EvaluationConfig,
    tasks: Sequence[TaskId] | None = None,
    read: Read = "likelihood",
    on_progress: OnProgress | None = None,
    keep_in: Folder | None = None,
    remove_experts: bool = False,
    ask: AskBatches | None = None,
) -> EvaluationReport:
    """Score a bundle on ``root/test/<task>`` and return its report, with every answer.

    Args:
        bundle: A loaded bundle.
        root: The data root.
        config: The recipe's section; ``max_questions`` chooses a fixed subset.
        tasks: Tasks to ask; all of the bundle's that the root has test data of where None.
        read: How yes/no answers are read.
        on_progress: Called after each batch.
        keep_in: Where answers are kept as they come; the same evaluation goes on from them.
        remove_experts: Ask the yes/no questions once more without each expert.
        ask: Who answers batches; this process where None. See ``ray_evaluate.py``.

    Raises:
        DataError: the root or a task's test data are absent, or of another specification.
        RecipeError: a task is not in the bundle, or it has no experts to remove.
    """
    begun = time.monotonic()
    if remove_experts:
        num_routed_experts(bundle.model)  # refuses a bundle without, before it is asked
    spec, known = bundle.facts.spec, bundle.model.tasks
    test = load_questions(root, spec, known, tasks, config.max_questions)
    this = _Evaluation(bundle, root, test, config, read)
    log = AnswerLog(keep_in, this.facts()) if keep_in else None
    asked = time.monotonic()
    answers = this.ask(on_progress, log, ask)
    answered = time.monotonic()
    removals = this.removals(answers, on_progress) if remove_experts else ()
    return this.report(answers, removals, scoring_seconds=answered - asked, begun=begun)


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """A bundle, the questions that it is asked, and how."""

    bundle: LoadedBundle
    root: Folder
    test: QuestionSet
    config: EvaluationConfig
    read: Read

    def facts(self) -> dict[str, Any]:
        """Return all that the answers depend on: model, questions, and how they are read."""
        return {
            "bundle": self.bundle.facts.version,
            "test_data": self.test.card.fingerprint("test/"),
            "questions": {task: len(rows) for task, rows in self.test.samples.items()},
            "max_questions": self.config.max_questions,
            "max_new_tokens": self.config.max_new_tokens,
            "read": self.read,
        }

    def ask(
        self, on_progress: OnProgress | None, log: AnswerLog | None, ask: AskBatches | None
    ) -> pa.Table:
        """Return the bundle's answer to every question."""
        return score_samples(
            self.bundle.model,
            self.test.samples,
            batch_size=self.config.batch_size,
            max_new_tokens=self.config.max_new_tokens,
            read=self.read,
            on_progress=on_progress,
            log=log,
            ask=ask,
        )

    def removals(
        self, answers: pa.Table, on_progress: OnProgress | None
    ) -> tuple[ExpertRemoval, ...]:
        """Return what each expert's absence changes."""
        return removal_effects(
            self.bundle.model, self.test.samples, answers, self.config, on_progress
        )

    def results(self, answers: pa.Table) -> tuple[TaskResult, ...]:
        """Return each task's metrics, with its experts and what a reader must know of it."""
        tasks, trained = self.test.tasks, self.bundle.facts.training
        left_out = [t for t, task in tasks.items() if task.role == "train" and t not in trained]
        return judge(
            answers,
            self.test,
            self.config.bootstrap_samples,
            routing=routing_of(self.bundle.model, list(tasks.values()), trained),
            notes=dict.fromkeys(left_out, "not trained in this run"),
            trained=trained,
        )

    def report(
        self,
        answers: pa.Table,
        removals: tuple[ExpertRemoval, ...],
        scoring_seconds: float,
        begun: float,
    ) -> EvaluationReport:
        """Judge the answers; ``begun`` is when reading began, on the monotonic clock."""
        facts = self.bundle.facts
        return EvaluationReport(
            name=facts.name,
            version=facts.version,
            variant=facts.variant,
            base=facts.base.name,
            data_name=self.test.card.name,
            data_root=self.root.url,
            read=self.read,
            subset_note=self.test.note,
            bootstrap_samples=self.config.bootstrap_samples,
            tasks=self.results(answers),
            removals=removals,
            scoring_seconds=scoring_seconds,
            seconds=time.monotonic() - begun,
            answers=answers,
        )


def load_questions(
    root: Folder,
    spec: DataSpec,
    known: Mapping[TaskId, Task],
    wanted: Sequence[TaskId] | None = None,
    max_questions: int | None = None,
) -> QuestionSet:
    """Read the test splits, trained tasks first.

    Raises:
        DataError: the root or a task's test data are absent, empty, not on the card or of another
            specification, or a row is of another task than its folder.
        RecipeError: ``wanted`` names a task that is not in ``known``, or ``max_questions`` leaves
            a task without any.
    """
    card = read_card(root)
    chosen = _chosen(card, known, wanted)
    require_listed(root, card, *(f"test/{t}" for t in chosen))
    places = {t: root / "test" / t for t in chosen}
    whole = {t: load_samples(place, spec, modalities=()) for t, place in places.items()}
    for task, samples in whole.items():
        require_task(samples, task, places[task])
    if not any(map(len, whole.values())):
        raise DataError(
            f"The data root {root.url!r} has no test questions of these tasks.",
            f"Tasks with test data: {', '.join(_with_test_data(card, known)) or 'none'}.",
            "Check the data root, or name other tasks.",
        )
    require_question_each([t for t in chosen if len(whole[t])], max_questions)
    rows = fixed_subset({t: labels_of(s) for t, s in whole.items()}, max_questions)
    return QuestionSet(
        card=card,
        tasks={t: known[t] for t in chosen},
        samples={
            t: load_samples(place, spec, known[t].modalities, rows[t].tolist())
            for t, place in places.items()
            if len(rows[t])
        },
        num_available={t: len(s) for t, s in whole.items()},
    )


def _chosen(
    card: DatasetCard, known: Mapping[TaskId, Task], wanted: Sequence[TaskId] | None
) -> list[TaskId]:
    """Return the tasks to ask, trained ones first: those wanted, or all that have test data.

    Raises:
        RecipeError: ``wanted`` names one that is not in ``known``.
    """
    if wrong := [t for t in wanted or () if t not in known]:
        raise RecipeError(
            f"The tasks {wrong} are not known.",
            f"Known are {', '.join(known)}.",
            "Name some of those, or add the task to the recipe.",
        )
    asked = _with_test_data(card, known) if wanted is None else wanted
    return sorted((t for t in known if t in asked), key=lambda t: known[t].role != "train")


def _with_test_data(card: DatasetCard, known: Mapping[TaskId, Task]) -> list[TaskId]:
    return [t for t in known if card.num_examples(f"test/{t}/")]


def labels_of(samples: SampleSet) -> list[int | None]:
    """Return each row's label, None where it has none."""
    if "label" not in samples.table.column_names:
        return [None] * len(samples)
    return list(samples.table["label"].to_pylist())
