"""Supervised references beside the variants: what injection costs against a specialist.

heads                  the federated heads themselves, after the first variant's last round
client:<id>            one client alone, on its own data
public                 the public data alone: what the server has without any client
centralised            the same light model on all clients' and the public data in one place
logistic_regression    a logistic regression on the tables of the same place

The last two are what a federation cannot have. All answer trained tasks alone: they have no
output for another. An answers table is published once made, and made again when the parts of the
recipe that it depends on have changed.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedkim_ray.config import Recipe
from fedkim_ray.data.loading import SampleSet, load_samples
from fedkim_ray.data.modalities import SERIES
from fedkim_ray.data.root import require_listed
from fedkim_ray.data.schema import join_tables
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.errors import RecipeError
from fedkim_ray.evaluation.baselines import LOGISTIC, logistic_answers, pooled_training_sets
from fedkim_ray.evaluation.evaluate import load_questions
from fedkim_ray.federation.aggregation import state_from_tensors
from fedkim_ray.pipeline import RunPlan, plan_run
from fedkim_ray.run_folder import aggregated_in
from fedkim_ray.storage import Folder, is_published, open_published, publish
from fedkim_ray.study.plan import PlannedRun, first_round_inputs
from fedkim_ray.study.supervised import head_answers, train_light
from fedkim_ray.types import ClientId, Task, TaskId

HEADS, CLIENTS, PUBLIC, CENTRALISED = "heads", "clients", "public", "centralised"
REFERENCES = (LOGISTIC, HEADS, CLIENTS, PUBLIC, CENTRALISED)
KIND, FORMAT_VERSION = "reference", 1
TABLE = "answers.parquet"

References = dict[str, dict[int, pa.Table]]
"""Answers by reference and training seed."""


def known_references(named: str) -> list[str]:
    """Return the references of a comma separated list, or of ``none``.

    Raises:
        RecipeError: it names something else.
    """
    wanted = [] if named == "none" else named.split(",")
    if wrong := [name for name in wanted if name not in REFERENCES]:
        raise RecipeError(
            f"There are no references {wrong}.",
            f"The references are {', '.join(REFERENCES)}.",
            "Correct --references.",
        )
    return wanted


def reference_answers(
    out: Folder,
    runs: Sequence[PlannedRun],
    wanted: Sequence[str],
    on_start: Callable[[str, int], None],
) -> References:
    """Return each reference's answers to the trained tasks' questions, for each seed of the study.

    Args:
        out: The study's folder; answers are kept in it.
        runs: The study's runs, finished; the first variant's are taken.
        wanted: Some of ``REFERENCES``.
        on_start: Told name and seed of what is about to be computed.
    """
    found: References = {}
    for number, run in enumerate(r for r in runs if r.variant == runs[0].variant):
        seed_free = () if number == 0 else (LOGISTIC,)
        makers = _Makers(run).wanted([name for name in wanted if name not in seed_free])
        for name, make in makers.items():
            folder = out / f"references/{name.replace(':', '-')}/seed-{run.seed}"
            table = _kept_or_made(folder, name, run, make, on_start)
            found.setdefault(name, {})[run.seed] = table
    return found


class _Makers:
    """What makes each reference of one recipe."""

    def __init__(self, run: PlannedRun) -> None:
        self.run, self.recipe = run, run.recipe
        self.plan: RunPlan = plan_run(run.recipe)
        self.root = Folder.at(run.recipe.data.root)
        self.heads = tuple(task for task in self.plan.trained if task.kind == "yes_no")

    def wanted(self, names: Sequence[str]) -> dict[str, Callable[[], pa.Table]]:
        """Return the makers of these references, in order, but of those with nothing to answer."""
        makers: dict[str, Callable[[], pa.Table]] = {}
        for name in names if self._asked(self.heads) else ():
            if name == CLIENTS:
                makers |= self._clients()
            elif name == PUBLIC:
                makers[name] = self._public
            elif name == HEADS and self.recipe.federation.clients_train:
                makers[name] = self._federated
            elif name == CENTRALISED:
                makers[name] = self._centralised
            elif name == LOGISTIC and self._with_tables():
                makers[name] = self._logistic
        return makers

    def _clients(self) -> dict[str, Callable[[], pa.Table]]:
        return {
            f"client:{client}": partial(self._alone, client)
            for client in self.plan.tasks_by_client
            if self._asked(self._heads_of(client))
        }

    def _federated(self) -> pa.Table:
        last = aggregated_in(self.run.folder, self.recipe.federation.rounds - 1)
        state = state_from_tensors(last.read_tensors("server.safetensors"))
        model = LightModel(self.recipe.encoders, self.plan.card.spec, self.heads)
        model.load_params(state.params)
        return self._ask(model, self.heads)

    def _alone(self, client: str) -> pa.Table:
        return self._trained_in(f"clients/{client}", self._heads_of(client), client)

    def _heads_of(self, client: ClientId) -> list[Task]:
        """Return the yes/no tasks that a client trains."""
        return [task for task in self.heads if task in self.plan.tasks_by_client[client]]

    def _public(self) -> pa.Table:
        return self._trained_in("public", self.heads, PUBLIC)

    def _trained_in(self, part: str, tasks: Sequence[Task], name: str) -> pa.Table:
        """Train the light model on one part of the data root."""
        spec, place = self.plan.card.spec, self.root / part
        require_listed(self.root, self.plan.card, part)
        train = {task.id: load_samples(place / f"{task.id}/train", spec) for task in tasks}
        return self._ask(train_light(self.recipe, spec, self.heads, train, name), tasks)

    def _centralised(self) -> pa.Table:
        train = {task.id: self._pooled(task) for task in self.heads}
        spec = self.plan.card.spec
        model = train_light(self.recipe, spec, self.heads, train, CENTRALISED)
        return self._ask(model, self.heads)

    def _logistic(self) -> pa.Table:
        parts = [
            logistic_answers(task, self._training_sets(task), self._questions[task.id])
            for task in self._with_tables()
        ]
        return pa.concat_tables(parts)

    def _training_sets(self, task: Task) -> list[SampleSet]:
        """Read what all who take part, and the public data, have of a task."""
        clients = self.plan.tasks_by_client
        return pooled_training_sets(self.root, self.plan.card, task, clients)

    def _pooled(self, task: Task) -> SampleSet:
        spec, sets = self.plan.card.spec, self._training_sets(task)
        return SampleSet(join_tables([s.table for s in sets], spec), spec)

    def _with_tables(self) -> list[Task]:
        carried = set(SERIES) & set(self.plan.card.spec.series)
        return [task for task in self._asked(self.heads) if set(task.modalities) & carried]

    @cached_property
    def _questions(self) -> Mapping[TaskId, SampleSet]:
        """The very questions that the variants were asked."""
        config, card = self.recipe.evaluation, self.plan.card
        wanted = [t.task for t in self.run.report().tasks]
        found = load_questions(self.root, card.spec, self.plan.tasks, wanted, config.max_questions)
        return found.samples

    def _asked(self, tasks: Sequence[Task]) -> list[Task]:
        """Return those tasks that the variants were asked."""
        return [task for task in tasks if task.id in self._questions]

    def _ask(self, model: LightModel, tasks: Sequence[Task]) -> pa.Table:
        asked = self._asked(tasks)
        return head_answers(model, asked, self._questions, self.recipe.federation.local.batch_size)


def _kept_or_made(
    folder: Folder,
    name: str,
    run: PlannedRun,
    make: Callable[[], pa.Table],
    on_start: Callable[[str, int], None],
) -> pa.Table:
    """Return the published answers where they are of these inputs; else make and publish them."""
    digest = _digest(run)
    kept = open_published(folder, KIND, FORMAT_VERSION) if is_published(folder) else None
    if kept and kept["inputs"] == digest:
        return pq.read_table(io.BytesIO(folder.read_bytes(TABLE)))
    on_start(name, run.seed)
    table, sink = make(), io.BytesIO()
    pq.write_table(table, sink)
    with publish(folder, KIND, FORMAT_VERSION, inputs=digest) as out:
        out.write_bytes(TABLE, sink.getvalue())
    return table


def _digest(run: PlannedRun) -> str:
    """Return one SHA-256 over all that a reference's answers depend on."""
    recipe: Recipe = run.recipe
    inputs: dict[str, Any] = {
        **first_round_inputs(recipe),
        "data_files": dict(run.data),
        "rounds": recipe.federation.rounds,
        "run": run.report().version,
        "questions": [[t.task, t.num_questions] for t in run.report().tasks],
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
