"""What is served, for those who ask: models, tasks with their inputs, expert weights."""

from fedkim_ray.data.schema import DataSpec
from fedkim_ray.types import Task
from serve.answers import (
    Experts,
    FeatureFacts,
    InputFacts,
    ModelFacts,
    ModelList,
    TaskFacts,
    TaskList,
)
from serve.engine import Description
from serve.errors import UnknownNameError


def known_model(described: Description, name: str) -> Description:
    """Return what is served where it bears this name.

    Raises:
        UnknownNameError: it has another.
    """
    facts = described.facts
    if name != facts.name:
        raise UnknownNameError(
            f"There is no model {name[:80]!r}.",
            f"This service has {facts.name!r}.",
            "Use the id that /v1/models gives.",
            "model",
        )
    return described


def model_facts(described: Description, created: int) -> ModelFacts:
    """Return the bundle as OpenAI's model."""
    facts = described.facts
    return ModelFacts(
        id=facts.name,
        created=created,
        bundle_version=facts.version,
        variant=facts.variant,
        base_model=facts.base.name,
    )


def model_list(described: Description, created: int) -> ModelList:
    """Return the one model that is served."""
    return ModelList(data=[model_facts(described, created)])


def task_list(described: Description) -> TaskList:
    """Return every task with the inputs that it reads."""
    facts = described.facts
    return TaskList(
        bundle_version=facts.version,
        data=[
            _task_facts(task, facts.spec, facts.data_kinds.get(task.id, "unknown"))
            for task in facts.tasks
        ],
    )


def experts(described: Description) -> Experts:
    """Return the expert weights of every task."""
    weights = {
        task: None if alpha is None else list(alpha)
        for task, alpha in described.expert_weights.items()
    }
    return Experts(
        num_experts=max((len(alpha) for alpha in weights.values() if alpha), default=0),
        bundle_version=described.facts.version,
        tasks=weights,
    )


def _task_facts(task: Task, spec: DataSpec, data_kind: str) -> TaskFacts:
    return TaskFacts(
        id=task.id,
        role=task.role,
        kind=task.kind,
        modalities=list(task.modalities),
        question=task.question,
        description=task.description,
        answer_words=list(task.answer_words) if task.kind == "yes_no" else None,
        data_kind=data_kind,
        inputs={m: _input_facts(m, spec) for m in task.modalities if m in spec.modalities},
    )


def _input_facts(modality: str, spec: DataSpec) -> InputFacts:
    if modality == "image" and spec.image:
        return InputFacts(image_size_px=spec.image.size_px)
    if modality == "signal" and spec.signal:
        return InputFacts(
            leads=list(spec.signal.leads),
            sampling_rate_hz=spec.signal.sampling_rate_hz,
            num_samples=spec.signal.num_samples,
            unit=spec.signal.unit,
        )
    series = spec.series[modality]
    features = [
        FeatureFacts(name=f.name, unit=f.unit, low=f.low, high=f.high) for f in series.features
    ]
    return InputFacts(hours=series.hours, features=features)
