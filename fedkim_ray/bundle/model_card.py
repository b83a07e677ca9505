"""The model card of a bundle, in Hugging Face's form."""

import math

from jinja2 import Environment, StrictUndefined

from fedkim_ray.bundle.layout import BundleFacts, Scores, TaskScore

TEMPLATE = """\
---
license: apache-2.0
language: en
base_model: {{ facts.base.name }}
library_name: fedkim-ray
pipeline_tag: text-generation
tags: [{{ tags | join(', ') }}]
---

# {{ facts.name }} ({{ facts.variant }}), version {{ facts.version }}

A frozen language model with medical knowledge injected by FedKIM: encoders trained by
{{ facts.clients | length }} clients on data that stayed with them{{ adapter }}.

**Not a medical device.** No answer of this model may guide the care of a patient.

## Intended use

Research on federated learning and on multi-modal medical models: to reproduce, compare and
serve experiments. Out of scope: diagnosis, triage, treatment, and any population, device or
language that the data below do not cover.

## How to use it

    fedkim bundle verify BUNDLE
    fedkim serve BUNDLE
    fedkim bundle fold BUNDLE --task TASK --modalities M --out DIR

The last one, where there are routed experts, gives an ordinary PEFT adapter for one task.

## What it is asked

| task | role | modalities | data |
|---|---|---|---|
{% for t in facts.tasks -%}
| {{ t.id }} | {{ roles[t.id] }} | {{ t.modalities | join(', ') }} | {{ facts.data_kinds[t.id] }} |
{% endfor %}
Tasks with the role *unseen* were never trained: they route by their description, which
extrapolates from the {{ facts.training | length }} trained ones.

## Data sources

| source | kind | licence | tasks |
|---|---|---|---|
{% for s in facts.data_sources -%}
| {{ s.name }} | {{ s.kind }} | {{ s.licence }} | {{ s.tasks | join(', ') }} |
{% endfor %}
The licence above is that of this project's own parts; the base model and the data have theirs.

## Lineage

- Base model: `{{ facts.base.name }}`, SHA-256 {{ facts.base_fingerprint }}
- Data root: {{ facts.data_name }}; public data fingerprint {{ facts.public_fingerprint }}
- {{ facts.rounds }} rounds, {{ facts.steps }} injection steps, seed {{ facts.seed }}

| client | tasks | training examples | data fingerprint |
|---|---|---|---|
{% for c in facts.clients -%}
| {{ c.client_id }} | {{ c.tasks | join(', ') }} | {{ c.num_examples }} | {{ c.data_fingerprint }} |
{% endfor %}
## Metrics
{% if scores %}
On the test data of {{ scores.data_name }}, yes/no answers read by {{ scores.reading }}.
{{ scores.subset_note }} Brackets hold 95 % bootstrap intervals by subject.

| task | role | data | questions | scores |
|---|---|---|---|---|
{% for t in scores.tasks -%}
| {{ t.task }} | {{ roles.get(t.task, t.role) }} | {{ t.data_kind }} | {{ t.num_questions }} | \
{{ told(t) }} |
{% endfor %}{% else %}
Not scored on test data yet: `fedkim report RUN` scores the run's bundle and writes it here.
{% endif %}{% if facts.validation %}
Area under the ROC curve of the clients' own heads on their validation data, before and after the
last injection moved the encoders:

| task | examples | before | after |
|---|---|---|---|
{% for task, v in facts.validation | dictsort -%}
| {{ task }} | {{ v.num_examples }} | {{ '%.3f' | format(v.auroc_before) }} | \
{{ '%.3f' | format(v.auroc_after) }} |
{% endfor %}{% endif %}
Last training loss of each task, in nats an answer token:

{% for task, loss in facts.training | dictsort -%}
- {{ task }}: {{ '%.4f' | format(loss) }}
{% endfor %}{% if facts.routing %}
## Routing

Over the examples of the last training step, the expert weights' mean entropy is
{{ '%.3f' | format(facts.routing.entropy_nats) }} nats, of at most {{ '%.3f' | format(most) }} \
where all experts share alike.

| expert | load (mean weight) |
|---|---|
{% for load in facts.routing.expert_load -%}
| {{ loop.index0 }} | {{ '%.3f' | format(load) }} |
{% endfor %}{% endif %}"""


def model_card(facts: BundleFacts, scores: Scores | None = None) -> str:
    """Return the card as Markdown, with scores on test data where there are any."""
    environment = Environment(undefined=StrictUndefined, autoescape=False)
    roles = {
        t.id: t.role if t.role == "unseen" or t.id in facts.training else "left out of this run"
        for t in facts.tasks
    }
    m3oe, kind = facts.injection.m3oe, facts.injection.adapter
    adapter = {
        "m3oe": f", and a mixture of {m3oe.num_experts} LoRA experts trained on public data",
        "lora": f", and one LoRA of rank {m3oe.num_experts * m3oe.rank} trained on public data",
        "none": "; the language model itself has no adapter",
    }[kind]
    tags = ["medical", "federated-learning"]
    tags += {"m3oe": ["lora", "mixture-of-experts"], "lora": ["lora"], "none": []}[kind]
    return environment.from_string(TEMPLATE).render(
        facts=facts,
        roles=roles,
        adapter=adapter,
        tags=tags,
        scores=scores,
        told=_told,
        most=math.log(m3oe.num_experts),
    )


def _told(score: TaskScore) -> str:
    """Return a task's metrics in words, each with its interval."""
    return ", ".join(f"{name} {value}" for name, value in score.metrics.items())
