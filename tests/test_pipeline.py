"""What a run refuses before it starts, and where it goes on, without Ray.

What was published before is made by hand.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedkim_ray import pipeline
from fedkim_ray.data.demo.tiny import SPEC
from fedkim_ray.data.root import DatasetCard, read_card
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.errors import RecipeError, RunAbortedError, StorageError
from fedkim_ray.federation.round_files import publish_aggregated
from fedkim_ray.federation.strategies import build_strategy
from fedkim_ray.injection.checkpoints import Checkpoints
from fedkim_ray.pipeline import RunPlan, plan_run, run_recipe, validation_of
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.run_folder import RunFolder
from fedkim_ray.storage import Folder, copy_published, publish

ONE_ROUND = ("federation.rounds=1", "federation.execution=local")


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "federation.client_resources={nort: {site_north: 1}}",
            r"client_resources names \['nort'\]\. It may name north, south\.",
        ),
        ("federation.client_selector={nort: {site: north}}", r"client_selector names \['nort'\]"),
        ("injection.task_weights={covid: 2}", r"task_weights names \['covid'\].*covid19"),
        ("injection.task_weights={sepsis: 2}", r"task_weights names \['sepsis'\]"),
        ("injection.tokens_per_modality={text: 2}", r"tokens_per_modality names \['text'\].*image"),
        (
            "injection.tokens_per_modality={lab: 1}",
            r"tokens_per_modality names \['lab'\]\. It may name image, signal, icu, input, output",
        ),
        ("encoders.groups={values: [lab, vital]}", r"encoders\.groups names \['values'\]"),
        ("encoders.groups={lab: [vital, input]}", r"encoders\.groups has groups named \['lab'\]"),
        ("data.clients=[]", r"data\.clients: .* at least 1 item"),
        ("data.tasks=[]", r"data\.tasks: .* at least 1 item"),
    ],
)
def test_a_setting_that_would_apply_to_nothing_is_refused(
    tiny_root: str, override: str, text: str
) -> None:
    sets = [f"data.root={tiny_root}", "encoders.groups={icu: [lab, vital]}", override]
    with pytest.raises(RecipeError, match=text):
        plan_run(load_recipe("tiny", sets))


def test_what_a_run_leaves_out_may_have_settings(tiny_root: str) -> None:
    sets = [
        "data.clients=[south]",
        "data.tasks=[mortality]",
        "encoders.groups={icu: [lab, vital]}",
        "federation.client_selector={north: {site: north}}",
        "injection.task_weights={covid19: 2}",
        "injection.tokens_per_modality={icu: 2, image: 2}",
    ]
    plan = plan_run(load_recipe("tiny", [f"data.root={tiny_root}", *sets]))
    assert [*plan.tasks_by_client] == ["south"]


def new_run(folder: Path, *overrides: str) -> RunFolder:
    return RunFolder.create(str(folder), load_recipe("tiny", [*ONE_ROUND, *overrides]))


def publish_empty(*folders: Folder) -> None:
    for folder in folders:
        with publish(folder, "aggregated", 1):
            pass


def test_a_run_goes_on_with_the_data_it_began_with_alone(tiny_root: str, tmp_path: Path) -> None:
    recipe = load_recipe("tiny", [*ONE_ROUND, f"data.root={tiny_root}"])
    data = read_card(Folder.at(tiny_root)).fingerprints
    other = {**data, "test": "0" * 64}
    run = RunFolder.create(str(tmp_path / "run"), recipe, other)
    message = r"The files of test in .* began with\..*[Rr]estore the data root"
    with pytest.raises(StorageError, match=message):
        run_recipe(RunFolder.open(run.folder.url), lambda event: None)


def test_clients_are_needed_until_the_last_round_is_scored(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    for published in (run.aggregated(0), run.injected(0)):
        assert pipeline._needs_clients(run)
        publish_empty(published)
    assert pipeline._needs_clients(run)
    publish_empty(run.scores(0))
    assert not pipeline._needs_clients(run)


def test_a_finished_run_needs_no_clients_though_it_was_not_scored(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    publish_empty(run.aggregated(0), run.injected(0), run.bundle)
    assert not pipeline._needs_clients(run)


def test_nobody_is_started_to_score_where_the_recipe_wants_no_scores(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", "federation.evaluate=false")
    publish_empty(run.aggregated(0))
    assert not pipeline._needs_clients(run)


def test_a_run_whose_round_was_copied_starts_no_clients(tmp_path: Path) -> None:
    run, other = new_run(tmp_path / "run"), Folder.at(tmp_path / "other")
    publish_empty(other)
    copy_published(other, run.aggregated(0), "aggregated", 1)
    assert not pipeline._needs_clients(run)
    publish_empty(run.injected(0))
    assert not pipeline._needs_clients(run)


def test_scores_that_a_kill_cut_off_are_made_when_the_run_goes_on(
    tiny_root: str,
    tmp_path: Path,
    write_tiny_bundle: Callable[[Path, str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = new_run(tmp_path / "run", f"data.root={tiny_root}")
    trained = tuple(task for task in TASKS if task.role == "train")
    spec = read_card(Folder.at(tiny_root)).spec
    params = LightModel(run.recipe.encoders, spec, trained).params()
    state = build_strategy(run.recipe.federation.strategy).init(params)
    publish_aggregated(run.aggregated(0), state, {})
    write_tiny_bundle(tmp_path / "made", "m3oe")
    copy_published(Folder.at(tmp_path / "made/injected"), run.injected(0), "injection", 1)

    monkeypatch.setattr(pipeline, "ray_session", lambda *_: nullcontext())
    told: list[Mapping[str, Any]] = []
    facts = run_recipe(run, told.append)
    assert [e["event"] for e in told].count("scored") == 1
    assert not any(e["event"] == "injection_started" for e in told)
    assert facts.validation == validation_of(run)
    assert facts.validation["covid19"].num_examples > 0


def test_checkpoints_of_a_published_round_go_when_the_run_goes_on(
    tiny_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", f"data.root={tiny_root}", "federation.rounds=2")
    left, needed = (Checkpoints.beside(run.injected(r), num_workers=1).folder for r in range(2))
    publish_empty(run.aggregated(0), run.injected(0), left / "00000002", needed / "00000006")

    def killed_again(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "ray_session", killed_again)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(run, lambda event: None)
    assert not left.exists()
    assert needed.names() == ["00000006"]


# Workers that stay may be lost between a round's publication and the end of its checkpoints.
def test_checkpoints_are_gone_when_a_run_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run")
    left = Checkpoints.beside(run.injected(0), num_workers=1).folder
    publish_empty(run.injected(0), run.bundle, left / "00000002")
    monkeypatch.setattr(pipeline, "read_facts", lambda _: SimpleNamespace(version="1"))
    card = DatasetCard(name="d", sources=(), spec=SPEC, seed=0, split_rule="")
    plan = RunPlan(card=card, tasks={}, trained=(), tasks_by_client={})
    pipeline._finish(run, plan, lambda event: None)
    assert not left.exists()


def test_a_run_is_aborted_while_it_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run")
    run.request_abort()  # of the run before, which is resumed here

    def plan_slowly(recipe: object) -> None:
        assert not run.abort_requested()
        run.request_abort()
        time.sleep(20.0)

    monkeypatch.setattr(pipeline, "plan_run", plan_slowly)
    with pytest.raises(RunAbortedError):
        run_recipe(run, lambda event: None)
