"""Write a bundle from the last round of a run."""

import hashlib
from collections.abc import Mapping, Sequence

from fedkim_ray.bundle.layout import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CARD,
    COMPONENTS,
    FACTS,
    FORMAT_VERSION,
    KIND,
    SCORES,
    BundleFacts,
    ClientLineage,
    RoutingFacts,
    Scores,
    ValidationFacts,
    to_peft_name,
)
from fedkim_ray.bundle.model_card import model_card
from fedkim_ray.bundle.read import read_facts
from fedkim_ray.config import Recipe
from fedkim_ray.data.root import DatasetCard
from fedkim_ray.injection.round_files import read_injection, read_log
from fedkim_ray.injection.step_log import StepLog
from fedkim_ray.storage import Folder, amend, publish
from fedkim_ray.types import Params, Task


def write_bundle(
    folder: Folder,
    injected: Folder,
    recipe: Recipe,
    card: DatasetCard,
    tasks: tuple[Task, ...],
    clients: tuple[str, ...],
    validation: Mapping[str, ValidationFacts] | None = None,
    earlier: Sequence[StepLog] = (),
) -> BundleFacts:
    """Publish a bundle and return its facts.

    Args:
        folder: Where to.
        injected: The last round's published injection.
        recipe: The run's recipe.
        card: The data root's card, for lineage.
        tasks: All tasks that the model may be asked, trained and unseen.
        clients: Clients that took part.
        validation: By task, what the clients' heads made of the last round's encoders.
        earlier: Logs of the rounds before the last, in order: a round may draw some tasks alone.
    """
    state, manifest = read_injection(injected)
    params, log = state.params, read_log(injected)
    facts = BundleFacts(
        name=recipe.name,
        version=version_of(params),
        variant=recipe.variant,
        base=recipe.base,
        base_fingerprint=manifest["base_fingerprint"],
        injection=recipe.injection,
        encoders=recipe.encoders,
        spec=card.spec,
        tasks=tasks,
        data_name=card.name,
        data_kinds={t.id: card.kind_of(t.id) for t in tasks},
        data_sources=card.sources,
        rounds=recipe.federation.rounds,
        steps=state.step,
        seed=recipe.seed,
        clients=tuple(_lineage(card, client) for client in clients),
        public_fingerprint=card.fingerprint("public/"),
        training={t: ls[-1][1] for told in (*earlier, log) for t, ls in told.loss_by_task.items()},
        routing=_routing(log),
        validation=dict(validation or {}),
    )
    _publish(folder, injected, facts, params)
    return facts


def _publish(folder: Folder, injected: Folder, facts: BundleFacts, params: Params) -> None:
    adapter = {peft: v for n, v in params.items() if (peft := to_peft_name(n))}
    others = {n: v for n, v in params.items() if to_peft_name(n) is None}
    with publish(folder, KIND, FORMAT_VERSION, version=facts.version) as out:
        if adapter:
            out.write_tensors(ADAPTER_WEIGHTS, adapter)
            out.write_bytes(ADAPTER_CONFIG, injected.read_bytes("adapter_config.json"))
        out.write_tensors(COMPONENTS, others)
        out.write_bytes(FACTS, facts.model_dump_json(indent=1).encode())
        out.write_bytes(CARD, model_card(facts).encode())


def add_scores(folder: Folder, scores: Scores) -> None:
    """Write scores into a published bundle and its model card; the bundle's version stays.

    Raises:
        StorageError: it is no whole bundle of this format.
    """
    card = model_card(read_facts(folder), scores).encode()
    files = {SCORES: scores.model_dump_json(indent=1).encode(), CARD: card}
    amend(folder, KIND, FORMAT_VERSION, files)


def _routing(log: StepLog) -> RoutingFacts | None:
    if not log.expert_load:
        return None
    load = tuple(log.expert_load[-1])
    return RoutingFacts(entropy_nats=log.entropy_nats[-1], expert_load=load)


def version_of(params: Params) -> str:
    """Return twelve digits that differ whenever a trained weight does."""
    digest = hashlib.sha256()
    for name in sorted(params):
        digest.update(name.encode())
        digest.update(params[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _lineage(card: DatasetCard, client: str) -> ClientLineage:
    prefix = f"clients/{client}/"
    return ClientLineage(
        client_id=client,
        tasks=card.tasks_of(client),
        num_examples=sum(card.num_examples(f"{prefix}{t}/train") for t in card.tasks_of(client)),
        data_fingerprint=card.fingerprint(prefix),
    )
