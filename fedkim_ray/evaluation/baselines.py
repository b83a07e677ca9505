"""References that an injected model is held against, as answers tables of the same form.

``logistic_answers``: a specialist for one task's tables. It is trained on the rows of all
hospitals in one place, which the researcher's simulation has and **a hospital federation cannot
run**: it says what injection costs against a model that saw everything.

``evaluate_base``: the frozen language model with a text prompt and nothing else. Time series are
written out as text. Images and signals cannot be: where a task has nothing else, and one wording,
all its prompts are alike, so it gives one constant answer and its AUROC is 0.5 by construction, not
by failure.
"""

import math
import time
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import torch
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedkim_ray.bundle.layout import BundleFacts
from fedkim_ray.bundle.read import load_base_of
from fedkim_ray.config import EvaluationConfig
from fedkim_ray.data.loading import SampleSet, collate, load_samples
from fedkim_ray.data.modalities import SERIES
from fedkim_ray.data.root import DatasetCard, read_card, require_listed
from fedkim_ray.data.schema import DataSpec
from fedkim_ray.errors import DataError
from fedkim_ray.evaluation.answers import Answer, answer_table, of_task
from fedkim_ray.evaluation.evaluate import labels_of, load_questions
from fedkim_ray.evaluation.judge import judge
from fedkim_ray.evaluation.results import EvaluationReport
from fedkim_ray.evaluation.scoring import OnProgress, Read
from fedkim_ray.evaluation.text_only import ask_in_text, tables_only
from fedkim_ray.storage import Folder
from fedkim_ray.types import ClientId, Task, TaskId

LOGISTIC = "logistic_regression"
PENALTIES = (0.001, 0.01, 0.1, 1.0)
"""Inverse strengths of the L2 penalty that cross-validation chooses from."""
NUM_FOLDS = 5


def pooled_training_sets(
    root: Folder, card: DatasetCard, task: Task, clients: Iterable[ClientId]
) -> list[SampleSet]:
    """Read a task's training rows of these clients and of the public data, into one place."""
    places = [f"clients/{client}/{task.id}/train" for client in clients]
    places.append(f"public/{task.id}/train")
    present = [place for place in places if card.num_examples(f"{place}/")]
    require_listed(root, card, *present)
    return [load_samples(root / place, card.spec, task.modalities) for place in present]


def logistic_answers(task: Task, train: Sequence[SampleSet], test: SampleSet) -> pa.Table:
    """Train a logistic regression on a task's tables and answer the test rows with it.

    Inputs are those of the encoders: every hour of every feature, standardised, 0 where nothing
    was observed, and beside each an indicator of whether it was. The L2 penalty is chosen by
    cross-validation over subjects.

    Raises:
        DataError: the task has no tables, or the training rows have one class only.
    """
    _require_tables(task, test.spec)
    x, y = _features(train), _labels(task, train)
    subjects = np.concatenate([t.table["subject_id"].to_numpy() for t in train])
    probability = _fit(x, y, subjects).predict_proba(_features([test]))[:, 1]
    answers = [Answer(task.answer_words[int(p > 0.5)], LOGISTIC, float(p)) for p in probability]
    return answer_table({task.id: test}, {task.id: answers}, {task.id: task})


def evaluate_base(
    facts: BundleFacts,
    root: Folder,
    config: EvaluationConfig,
    wanted: Sequence[TaskId] | None = None,
    read: Read = "likelihood",
    on_progress: OnProgress | None = None,
) -> EvaluationReport:
    """Score a bundle's frozen language model on the same questions, with a text prompt.

    Args:
        facts: Of the bundle.
        root: The data root.
        config: As for a bundle; the same subset is drawn.
        wanted: Tasks to ask; all that the root has test data of where None.
        read: How yes/no answers are read.
        on_progress: Called after each batch.

    Raises:
        DataError: the root or a task's test data are absent.
        BaseModelError: the base model is absent, or not the one that the bundle was trained on.
    """
    begun, base = time.monotonic(), facts.base
    tasks = {task.id: task for task in facts.tasks}
    test = load_questions(root, read_card(root).spec, tasks, wanted, config.max_questions)
    on_gpu = torch.cuda.is_available()
    model = load_base_of(facts, base.dtype, on_gpu=on_gpu)
    if on_gpu and base.quantization == "none":
        model.llm.to("cuda")
    asked = time.monotonic()
    answers = ask_in_text(
        model,
        test.samples,
        test.tasks,
        batch_size=config.batch_size,
        max_new_tokens=config.max_new_tokens,
        read=read,
        on_progress=on_progress,
    )
    answered = time.monotonic()
    notes = {t: blind_note(task, of_task(answers, t)) for t, task in test.tasks.items()}
    return EvaluationReport(
        name=base.name,
        version=model.fingerprint[:12],
        variant="base",
        base=base.name,
        data_name=test.card.name,
        data_root=root.url,
        read=read,
        subset_note=test.note,
        bootstrap_samples=config.bootstrap_samples,
        tasks=judge(answers, test, config.bootstrap_samples, notes=notes, trained=facts.training),
        scoring_seconds=answered - asked,
        seconds=time.monotonic() - begun,
        answers=answers,
    )


def blind_note(task: Task, answers: pa.Table) -> str:
    """Say what the text prompt of a task lacks; empty where it lacks nothing.

    Args:
        task: The task.
        answers: The base model's answers to it.
    """
    lost = [m for m in task.modalities if m not in (*SERIES, "text")]
    if not lost:
        return ""
    what = f"the text prompt lacks the {' and '.join(lost)}"
    if task.kind == "generate":
        return f"{what}: the answer is blind"
    probabilities = set(answers["probability_yes"].to_pylist())
    if len(probabilities) == 1 and None not in probabilities:
        return f"{what}: a constant answer, AUROC is 0.5 by construction"
    return what


def _features(sets: Sequence[SampleSet]) -> np.ndarray:
    """Return standardised values and indicators of every hour and feature, (N, 2 * H * F)."""
    return np.concatenate([_features_of(samples) for samples in sets])


def _features_of(samples: SampleSet) -> np.ndarray:
    """Return one set's rows; a modality that a row lacks is unobserved in it."""
    series = [m for m in SERIES if m in samples.spec.series]
    bare = tables_only(samples)
    batch = collate([bare[row] for row in range(len(bare))], samples.spec)
    columns = []
    for modality in series:
        width = math.prod(samples.spec.shape(modality))
        pair = np.zeros((2, len(bare), width), np.float32)
        if rows := batch.inputs.get(modality):
            assert rows.observed is not None  # series carry a mask
            # One at a time: numpy takes a tuple of tensors of one row for a ragged sequence.
            pair[0, rows.rows] = rows.values.flatten(1)
            pair[1, rows.rows] = rows.observed.flatten(1)
        columns += [*pair]
    return np.concatenate(columns, axis=1)


def _fit(x: np.ndarray, y: np.ndarray, subjects: np.ndarray) -> BaseEstimator:
    """Fit, with the penalty that cross-validation over subjects finds best by AUROC."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    grid = {"logisticregression__C": PENALTIES}
    return GridSearchCV(model, grid, scoring="roc_auc", cv=_folds(y, subjects)).fit(x, y)


def _folds(y: np.ndarray, subjects: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return rows to train on and to score, no subject in both, and both classes in each.

    A fold with one class has no AUROC, and would leave all penalties without a score.
    """
    fewest = min(len(set(subjects[y == label])) for label in (0, 1))
    if fewest > 1:
        folds = StratifiedGroupKFold(min(NUM_FOLDS, fewest), shuffle=True, random_state=0)
        parts = folds.split(y, y, subjects)
        if usable := [p for p in parts if all(len(set(y[rows])) == 2 for rows in p)]:
            return usable
    raise DataError(
        f"A class has too few subjects in the training rows, {fewest}.",
        "Cross-validation over subjects needs some of both classes on either side.",
        "Train on more rows, or leave logistic_regression out of --references: what was "
        "trained is kept.",
    )


def _require_tables(task: Task, spec: DataSpec) -> None:
    if not set(task.modalities) & set(spec.series):
        raise DataError(
            f"Task {task.id!r} has the modalities {', '.join(task.modalities)}.",
            f"A logistic regression reads tables: {', '.join(SERIES)}.",
            "Use it for a task with tables.",
        )


def _labels(task: Task, sets: Sequence[SampleSet]) -> np.ndarray:
    labels = [label for samples in sets for label in labels_of(samples)]
    if set(labels) != {0, 1}:
        raise DataError(
            f"The training rows of {task.id!r} have the labels {sorted(map(str, set(labels)))}.",
            "A logistic regression needs both 0 and 1, and no empty label.",
            "Choose another task, or another data root.",
        )
    return np.array(labels)
