"""The twelve tasks of the method: four are trained, eight are only ever asked.

A user adds a task in the ``tasks`` section of a recipe, without touching code.

Source: FedMEKI, https://arxiv.org/abs/2408.09227, tables 1 and 2; FedKIM section 4.
"""

from collections.abc import Iterable, Mapping

from fedkim_ray.data.modalities import MODALITIES, SERIES
from fedkim_ray.errors import RecipeError
from fedkim_ray.types import Task, TaskId

ICU = SERIES
METRICS: Mapping[str, tuple[str, ...]] = {
    "yes_no": ("auroc", "accuracy", "precision", "recall", "f1", "mcc", "ece"),
    "generate": ("exact_match", "token_f1", "bleu_1", "rouge_1", "rouge_l"),
}
"""What is measured of a task's answers, by its kind."""
TASKS: tuple[Task, ...] = (
    Task(
        id="lung_opacity",
        role="train",
        modalities=("image",),
        description="Lung opacity detection: find out from a chest X-ray whether an area of the "
        "lung is denser than it should be, as in pneumonia.",
        question="Does this chest X-ray show lung opacity?",
        rewordings=(
            "Is there an opacity in the lungs on this chest X-ray?",
            "Is an area of lung denser than normal in this chest X-ray?",
        ),
        source="RSNA Pneumonia Detection Challenge",
        split_by="patient",
    ),
    Task(
        id="covid19",
        role="train",
        modalities=("image",),
        description="COVID-19 detection: find out from a chest X-ray whether the patient has "
        "COVID-19 pneumonia, which shades both lungs near their edges.",
        question="Does this chest X-ray show COVID-19?",
        rewordings=(
            "Does the patient of this chest X-ray have COVID-19 pneumonia?",
            "Are there signs of COVID-19 on this chest X-ray?",
        ),
        source="COVID-19 Radiography Database",
        split_by="image group",
    ),
    Task(
        id="ecg_abnormal",
        role="train",
        modalities=("signal",),
        description="ECG abnormality detection: find out from an electrocardiogram whether the "
        "heart's rhythm or conduction is abnormal.",
        question="Is this electrocardiogram abnormal?",
        rewordings=(
            "Does this electrocardiogram show an abnormality?",
            "Is there anything abnormal in this electrocardiogram?",
        ),
        source="PTB-XL",
        split_by="patient",
    ),
    Task(
        id="mortality",
        role="train",
        modalities=ICU,
        description="Mortality prediction: find out from the vital signs, laboratory values, "
        "inputs and outputs of a seriously ill patient whether the patient dies in hospital.",
        question="Will this patient die in hospital?",
        rewordings=(
            "Does this patient die during the stay in hospital?",
            "Is this patient going to die in hospital?",
        ),
        source="MIMIC-III, first 24 hours",
        split_by="patient",
    ),
    Task(
        id="enlarged_cardiomediastinum",
        role="unseen",
        modalities=("image",),
        description="Enlarged cardiomediastinum detection: find out from a chest X-ray whether "
        "the shadow of heart and great vessels is wider than it should be.",
        question="Does this chest X-ray show an enlarged cardiomediastinum?",
        rewordings=("Is the cardiomediastinum enlarged on this chest X-ray?",),
        source="CheXpert, validation set",
        split_by="patient",
    ),
    Task(
        id="atelectasis",
        role="unseen",
        modalities=("image",),
        description="Atelectasis detection: find out from a chest X-ray whether a part of the "
        "lung has collapsed and lost its air.",
        question="Does this chest X-ray show atelectasis?",
        rewordings=("Is there atelectasis on this chest X-ray?",),
        source="CheXpert, validation set",
        split_by="patient",
    ),
    Task(
        id="pleural_effusion",
        role="unseen",
        modalities=("image",),
        description="Pleural effusion detection: find out from a chest X-ray whether fluid has "
        "collected between lung and chest wall.",
        question="Does this chest X-ray show pleural effusion?",
        rewordings=("Is there a pleural effusion on this chest X-ray?",),
        source="CheXpert, validation set",
        split_by="patient",
    ),
    Task(
        id="ectopic_beats",
        role="unseen",
        modalities=("signal",),
        description="Ectopic beat detection: find out from an electrocardiogram whether there are "
        "extra beats that do not start in the sinus node.",
        question="Does this electrocardiogram show ectopic beats?",
        rewordings=("Are there ectopic beats in this electrocardiogram?",),
        source="PTB-XL, extra_beats",
        split_by="patient",
    ),
    Task(
        id="sepsis",
        role="unseen",
        modalities=ICU,
        description="Sepsis prediction: find out from the vital signs, laboratory values, inputs "
        "and outputs of a seriously ill patient whether the patient has sepsis.",
        question="Does this patient have sepsis?",
        rewordings=("Is this patient septic?",),
        source="MIMIC-III, 168 hours",
        split_by="patient",
    ),
    Task(
        id="signal_noise",
        role="unseen",
        modalities=("signal", "text"),
        kind="generate",
        description="ECG noise question: answer a question about the kind of noise in an "
        "electrocardiogram and the leads that it is in.",
        question="What kind of noise does this electrocardiogram show?",
        source="ECG-QA, attribute_type noise",
        split_by="ECG id",
    ),
    Task(
        id="med_vqa",
        role="unseen",
        modalities=("image", "text"),
        kind="generate",
        description="Radiology visual question answering: answer a clinician's question about a "
        "radiological image in a few words.",
        question="What does this image show?",
        source="VQA-RAD",
        split_by="image",
    ),
    Task(
        id="slake_vqa",
        role="unseen",
        modalities=("image", "text"),
        kind="generate",
        description="Medical visual question answering: answer a question about organs, position "
        "and disease in a medical image.",
        question="What does this image show?",
        source="SLAKE (English)",
        split_by="image",
    ),
)


def task_table(added: Iterable[Task] = ()) -> Mapping[TaskId, Task]:
    """Return the built-in tasks and the user's own, by id.

    Raises:
        RecipeError: an id is taken, or a modality or metric is unknown.
    """
    table = {task.id: task for task in TASKS}
    for task in added:
        if task.id in table:
            raise RecipeError(
                f"The recipe adds a task {task.id!r}, an id that is taken.",
                "Each task has an id of its own.",
                "Choose another id.",
            )
        unknown = [m for m in task.modalities if m not in MODALITIES]
        if unknown:
            raise RecipeError(
                f"Task {task.id!r} names the modalities {unknown}.",
                f"The modalities are {', '.join(MODALITIES)}.",
                "Correct the task in the recipe.",
            )
        unmeasured = [m for m in task.metrics if m not in METRICS[task.kind]]
        if unmeasured:
            raise RecipeError(
                f"Task {task.id!r} names the metrics {unmeasured}.",
                f"Answers of the kind {task.kind!r} have {', '.join(METRICS[task.kind])}.",
                "Correct the task's metrics.",
            )
        table[task.id] = task
    return table
