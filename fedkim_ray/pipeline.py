"""One run of FedKIM, top to bottom.

    for each round:
        clients train encoders and heads on their own data      (knowledge extraction)
        the server averages them, group by group                (aggregation)
        M3OE, aligners and encoders learn on public data        (injection)
        the injected encoders become the clients' next base
    the last round becomes a bundle

Every step publishes its result before the next begins, and starts from what was published: a
run that is killed and resumed takes the same steps from the same files.

Source: FedKIM, algorithm 1. https://arxiv.org/abs/2408.10276
"""

import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from fedkim_ray.aborting import abortable
from fedkim_ray.bundle.layout import BundleFacts, ValidationFacts
from fedkim_ray.bundle.read import read_facts
from fedkim_ray.bundle.write import write_bundle
from fedkim_ray.config import Recipe
from fedkim_ray.data.root import CARD, DatasetCard, altered_files, read_card, require_listed
from fedkim_ray.data.tasks import task_table
from fedkim_ray.driving import driving, failure_told
from fedkim_ray.encoders.bundle import LightModel, group_of_each
from fedkim_ray.errors import DataError, RecipeError
from fedkim_ray.federation.aggregation import ServerState
from fedkim_ray.federation.clients import Clients
from fedkim_ray.federation.coordinator import run_round, score_params
from fedkim_ray.federation.plan import Work
from fedkim_ray.federation.ray_clients import open_clients
from fedkim_ray.federation.round_files import (
    SCORES_FILE,
    publish_aggregated,
    publish_scores,
    read_aggregated,
)
from fedkim_ray.federation.setup import make_setups, require_no_running_statistics
from fedkim_ray.federation.strategies import build_strategy
from fedkim_ray.injection.base_model import find_base
from fedkim_ray.injection.checkpoints import Checkpoints
from fedkim_ray.injection.parts import require_targets
from fedkim_ray.injection.public_data import load_public
from fedkim_ray.injection.ray_workers import InjectionWorkers
from fedkim_ray.injection.round_files import encoders_of, read_injection, read_log
from fedkim_ray.injection.worker import InjectionPlan
from fedkim_ray.ray_session import ray_session
from fedkim_ray.run_folder import RunFolder
from fedkim_ray.run_metrics import RunMetrics
from fedkim_ray.storage import Folder, is_copied, is_published
from fedkim_ray.types import ClientId, Params, Task, TaskId

OnEvent = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Who trains what: resolved from recipe and data card before any work starts."""

    card: DatasetCard
    tasks: Mapping[TaskId, Task]
    trained: tuple[Task, ...]
    tasks_by_client: Mapping[ClientId, tuple[Task, ...]]

    @property
    def with_questions(self) -> tuple[TaskId, ...]:
        """Tasks that the data root has test questions of."""
        return tuple(t for t in self.tasks if self.card.num_examples(f"test/{t}/"))


def plan_run(recipe: Recipe) -> RunPlan:
    """Resolve a recipe against its data root and base model.

    Raises:
        DataError: the data root is absent, lacks a client or a task's public data, a public or test
            file was lost, cut short or added, or a public row is of another task than its folder.
        RecipeError: a named task is no trained one, a setting is for a client, task or modality
            that there is not, a client has nothing to learn, the quorum is larger than the number
            of clients, or the base model lacks a layer to adapt.
        BaseModelError: the base model is not there, or is no causal language model.
    """
    root = Folder.at(recipe.data.root)
    card = read_card(root)
    tasks = task_table(recipe.tasks)
    trained = _trained_tasks(recipe, card, tasks)
    _require_public_data(root, card)
    load_public(root, trained, card.spec, modalities=())
    clients = _clients(recipe, card)
    _require_known_names(recipe, card, tasks)
    by_client = {
        client: tuple(task for task in trained if task.id in card.tasks_of(client))
        for client in clients
    }
    light = LightModel(recipe.encoders, card.spec, trained)  # refuses impossible encoders early
    require_no_running_statistics(light)
    if recipe.federation.clients_train:  # refuses an impossible quorum before Ray starts
        make_setups(
            clients,
            recipe.data.root,
            card.spec,
            recipe.encoders,
            by_client,
            trained,
            recipe.federation,
        )
    require_targets(find_base(recipe.base.name, recipe.base.revision), recipe.injection)
    return RunPlan(card, tasks, trained, by_client)


def run_recipe(run: RunFolder, on_event: OnEvent) -> BundleFacts:
    """Run, or go on with, a whole recipe; returns the finished bundle's facts.

    Raises:
        StorageError: a process on this host drives the run, a driver anywhere took it over, or
            the data are not those that it began with.
        RunAbortedError: somebody asked for the end of the run.
    """
    with driving(run) as driven, abortable(driven), failure_told(driven):
        return _drive(driven, on_event)


def _drive(run: RunFolder, on_event: OnEvent) -> BundleFacts:
    recipe, plan = run.recipe, plan_run(run.recipe)
    run.require_data(plan.card.fingerprints)
    metrics = RunMetrics(recipe.federation.client_timeout_s)

    def tell(event: Mapping[str, Any]) -> None:
        run.log(event)
        metrics(event)
        on_event(event)

    first = run.rounds_done()
    tell(
        {
            "event": "run_started",
            "run_id": run.run_id,
            "rounds": recipe.federation.rounds,
            "first": first,
            "clients": [*plan.tasks_by_client] if recipe.federation.clients_train else [],
        }
    )
    _drop_checkpoints(run)
    # Processes of Ray Train may write there while it is removed.
    with tempfile.TemporaryDirectory(prefix="fedkim-", ignore_cleanup_errors=True) as scratch:
        if first < recipe.federation.rounds or _needs_clients(run):
            with (
                ray_session(recipe, len(plan.tasks_by_client)),
                metrics.going_on(),
                _clients_of(run, plan, scratch, tell) as clients,
                InjectionWorkers(recipe, scratch, tell) as workers,
            ):
                if first:  # it may have been killed between injection and scores
                    _score(run, clients, first - 1, tell)
                for r in range(first, recipe.federation.rounds):
                    if not is_published(run.aggregated(r)):
                        _federate(run, _state_before(run, plan, r), clients, r, tell)
                    _inject(run, plan, r, workers, tell)
                    metrics.injected(read_log(run.injected(r)))
                    _score(run, clients, r, tell)
    return _finish(run, plan, tell)


def _federate(
    run: RunFolder, state: ServerState, clients: Clients | None, r: int, tell: OnEvent
) -> None:
    """Let the clients train, average them and publish; without clients the state stays."""
    report: dict[str, Any] = {"round_index": r, "clients": [], "tasks": {}}
    if clients is not None:
        state, told = run_round(
            build_strategy(run.recipe.federation.strategy),
            state,
            clients,
            r,
            federation=run.recipe.federation,
            on_event=tell,
        )
        report = told.model_dump(mode="json")
    begun = time.monotonic()
    publish_aggregated(run.aggregated(r), state, report)
    seconds = time.monotonic() - begun
    valid = {t: m["auroc_after"] for t, m in report["tasks"].items() if "auroc_after" in m}
    tell({"event": "aggregated", "round": r, "valid_auroc": valid, "seconds": seconds})


def _inject(
    run: RunFolder, plan: RunPlan, r: int, workers: InjectionWorkers, tell: OnEvent
) -> None:
    begun = time.monotonic()
    tell({"event": "injection_started", "round": r, "steps": run.recipe.injection.steps_per_round})
    workers.inject(
        InjectionPlan(
            recipe=run.recipe,
            tasks=tuple(task.id for task in plan.trained),
            round_index=r,
            aggregated_url=run.aggregated(r).url,
            previous_url=run.injected(r - 1).url if r else None,
            out_url=run.injected(r).url,
            claim=run.folder.claim,
        ),
        on_step=lambda step, loss: tell(
            {"event": "injection_step", "round": r, "step": step, "loss": loss}
        ),
    )
    log = read_log(run.injected(r))
    told: dict[str, Any] = {"loss": log.loss[-1], "seconds": time.monotonic() - begun}
    if log.expert_load:
        told |= {"entropy_nats": log.entropy_nats[-1], "expert_load": log.expert_load[-1]}
    tell({"event": "injected", "round": r, **told})


def _state_before(run: RunFolder, plan: RunPlan, r: int) -> ServerState:
    """Return the server's state before round ``r``, from what was published."""
    strategy = build_strategy(run.recipe.federation.strategy)
    if r == 0:
        torch.manual_seed(run.recipe.seed)
        light = LightModel(run.recipe.encoders, plan.card.spec, plan.trained)
        return strategy.init(light.params())
    state = read_aggregated(run.aggregated(r - 1))
    return strategy.rebase(state, _injected_params(run, state, r - 1))


def _injected_params(run: RunFolder, state: ServerState, r: int) -> Params:
    """Return the global parameters with the encoders that round ``r``'s injection published."""
    injected, _ = read_injection(run.injected(r))
    return {**state.params, **encoders_of(injected.params)}


def _score(run: RunFolder, clients: Clients | None, r: int, tell: OnEvent) -> None:
    """Let the clients score heads and encoders before and after the round's injection."""
    if clients is None or not run.recipe.federation.evaluate or is_published(run.scores(r)):
        return
    begun = time.monotonic()
    state = read_aggregated(run.aggregated(r))
    params: Mapping[Work, Params] = {
        "score_aggregated": state.params,
        "score_injected": _injected_params(run, state, r),
    }
    before, after = (
        score_params(clients, p, r, work, federation=run.recipe.federation, on_event=tell)
        for work, p in params.items()
    )
    publish_scores(run.scores(r), {"round_index": r, "before": before, "after": after})
    seconds = time.monotonic() - begun
    tell({"event": "scored", "round": r, "before": before, "after": after, "seconds": seconds})


def _finish(run: RunFolder, plan: RunPlan, tell: OnEvent) -> BundleFacts:
    """Publish the bundle of the last round; one that is there may have scores since, and stays."""
    _drop_checkpoints(run)
    if is_published(run.bundle):
        facts = read_facts(run.bundle)
    else:
        facts = write_bundle(
            run.bundle,
            run.injected(run.recipe.federation.rounds - 1),
            run.recipe,
            plan.card,
            tuple(plan.tasks.values()),
            tuple(plan.tasks_by_client) if run.recipe.federation.clients_train else (),
            validation_of(run),
            [read_log(run.injected(r)) for r in range(run.recipe.federation.rounds - 1)],
        )
    tell({"event": "bundle", "url": run.bundle.url, "version": facts.version})
    return facts


def _drop_checkpoints(run: RunFolder) -> None:
    """Remove what a kill just after a round's publication left of it; no worker may be there."""
    for r in range(run.rounds_done()):
        Checkpoints.beside(run.injected(r), run.recipe.injection.num_workers).clear()


def validation_of(run: RunFolder) -> dict[TaskId, ValidationFacts]:
    """Return what the clients scored around the last injection; empty where none did."""
    scores = run.scores(run.recipe.federation.rounds - 1)
    if not is_published(scores):
        return {}
    told = scores.read_json(SCORES_FILE)
    before, after = told["before"], told["after"]
    return {
        task: ValidationFacts(
            num_examples=int(after[task]["examples"]),
            auroc_before=before[task]["auroc"],
            auroc_after=after[task]["auroc"],
        )
        for task in after
        if "auroc" in after[task] and "auroc" in before.get(task, {})
    }


def _needs_clients(run: RunFolder) -> bool:
    """Whether anything is left for clients to do: train in a round, or score the last."""
    federation, last = run.recipe.federation, run.recipe.federation.rounds - 1
    if not federation.clients_train or is_published(run.bundle):
        return False
    rounds = range(run.rounds_done(), federation.rounds)
    if any(not is_published(run.aggregated(r)) for r in rounds):
        return True
    # A last round that was copied from another run is there to start no clients at all.
    scored = is_published(run.scores(last)) or is_copied(run.aggregated(last))
    return federation.evaluate and not scored


@contextmanager
def _clients_of(
    run: RunFolder, plan: RunPlan, scratch: str, tell: OnEvent
) -> Iterator[Clients | None]:
    """Start the clients for the length of a block; None where nothing is left for them."""
    recipe = run.recipe
    if not _needs_clients(run):
        yield None
        return
    tell({"event": "clients_starting", "clients": [*plan.tasks_by_client]})
    with open_clients(
        client_ids=tuple(plan.tasks_by_client),
        data_url=recipe.data.root,
        spec=plan.card.spec,
        encoders=recipe.encoders,
        tasks_by_client=plan.tasks_by_client,
        all_tasks=plan.trained,
        federation=recipe.federation,
        seed=recipe.seed,
        run_id=run.run_id,
        scratch=scratch,
        on_event=tell,
        quorum_suffices=is_published(run.aggregated(0)),  # it goes on; one may be away for good
    ) as clients:
        yield clients


def _trained_tasks(
    recipe: Recipe, card: DatasetCard, tasks: Mapping[TaskId, Task]
) -> tuple[Task, ...]:
    named = recipe.data.tasks
    wrong = [t for t in named or () if t not in tasks or tasks[t].role != "train"]
    if wrong:
        raise RecipeError(
            f"data.tasks names {wrong}.",
            f"Trained tasks are {', '.join(t.id for t in tasks.values() if t.role == 'train')}.",
            "Correct data.tasks in the recipe.",
        )
    chosen = [t for t in tasks.values() if t.role == "train" and (not named or t.id in named)]
    lacking = [t.id for t in chosen if not card.num_examples(f"public/{t.id}/train/")]
    if lacking:
        raise DataError(
            f"The data root {recipe.data.root!r} has no public data of {lacking}.",
            "Injection draws from public/<task>/train of every trained task.",
            "Name the tasks that it has in data.tasks.",
        )
    return tuple(chosen)


def _require_known_names(recipe: Recipe, card: DatasetCard, tasks: Mapping[TaskId, Task]) -> None:
    """Refuse settings by name that would apply to nothing; what this run leaves out may have some.

    Raises:
        RecipeError: there is no such client, trained task, modality or encoder group.
    """
    federation, injection = recipe.federation, recipe.injection
    trained = [task.id for task in tasks.values() if task.role == "train"]
    groups = dict.fromkeys(group_of_each(recipe.encoders).values())
    settings: Mapping[str, tuple[Collection[str], Collection[str]]] = {
        "federation.client_resources": (federation.client_resources, card.clients),
        "federation.client_selector": (federation.client_selector, card.clients),
        "injection.task_weights": (injection.task_weights, trained),
        "injection.tokens_per_modality": (injection.tokens_per_modality, groups),
    }
    for field, (named, known) in settings.items():
        if wrong := [name for name in named if name not in known]:
            raise RecipeError(
                f"{field} names {wrong}.",
                f"It may name {', '.join(known) or 'none'}.",
                f"Correct {field} in the recipe.",
            )


def _require_public_data(root: Folder, card: DatasetCard) -> None:
    """Hold the files that the server reads against the card; private ones it may not look at."""
    if altered := [n for part in ("public/", "test/") for n in altered_files(root, card, part)]:
        raise DataError(
            f"{root.full(altered[0])!r} is missing or of another size ({len(altered)} such files).",
            f"Its size when it was imported is in {CARD}.",
            "Restore it, or make the data root again; `fedkim data check` examines all files.",
        )
    require_listed(root, card, "public", "test")


def _clients(recipe: Recipe, card: DatasetCard) -> tuple[ClientId, ...]:
    named = card.clients if recipe.data.clients is None else recipe.data.clients
    wrong = [client for client in named if client not in card.clients]
    if wrong:
        raise DataError(
            f"data.clients names {wrong}.",
            f"The data root has the clients {', '.join(card.clients) or 'none'}.",
            "Correct data.clients in the recipe.",
        )
    return tuple(named)
