"""The model card of a bundle, in Hugging Face's form."""

from jinja2 import Environment, StrictUndefined

from fedkim_ray.bundle.layout import BundleFacts

TEMPLATE = """\
---
license: apache-2.0
base_model: {{ facts.base.name }}
library_name: fedkim-ray
tags: [medical, federated-learning, lora, mixture-of-experts]
---

# {{ facts.name }} ({{ facts.variant }}), version {{ facts.version }}

A frozen language model with medical knowledge injected by FedKIM: encoders trained by
{{ facts.clients | length }} clients on data that stayed with them, and a mixture of
{{ facts.injection.m3oe.num_experts }} LoRA experts trained on public data.

**Not a medical device.** For research. No answer of this model may guide the care of a patient.

## What it is asked

| task | role | modalities | data |
|---|---|---|---|
{% for t in facts.tasks -%}
| {{ t.id }} | {{ roles[t.id] }} | {{ t.modalities | join(', ') }} | {{ facts.data_kinds[t.id] }} |
{% endfor %}
Tasks with the role *unseen* were never trained: they route by their description, which
extrapolates from the {{ facts.training | length }} trained ones.

## Lineage

- Base model: `{{ facts.base.name }}`, SHA-256 {{ facts.base_fingerprint }}
- Data root: {{ facts.data_name }}; public data fingerprint {{ facts.public_fingerprint }}
- {{ facts.rounds }} rounds, {{ facts.steps }} injection steps, seed {{ facts.seed }}

| client | tasks | training examples | data fingerprint |
|---|---|---|---|
{% for c in facts.clients -%}
| {{ c.client_id }} | {{ c.tasks | join(', ') }} | {{ c.num_examples }} | {{ c.data_fingerprint }} |
{% endfor %}
## Last training loss

{% for task, loss in facts.training | dictsort -%}
- {{ task }}: {{ '%.4f' | format(loss) }}
{% endfor %}"""


def model_card(facts: BundleFacts) -> str:
    """Return the card as Markdown."""
    environment = Environment(undefined=StrictUndefined, autoescape=False)
    roles = {
        t.id: t.role if t.role == "unseen" or t.id in facts.training else "left out of this run"
        for t in facts.tasks
    }
    return environment.from_string(TEMPLATE).render(facts=facts, roles=roles)
