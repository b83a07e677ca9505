"""Which runs a study has, and which first rounds are the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fedkim_ray.errors import RecipeError, StorageError
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.run_folder import RunFolder
from fedkim_ray.study.plan import first_round_inputs, plan_study


def test_every_variant_has_every_seed_in_a_folder_of_its_own(
    tiny_root: str, tmp_path: Path
) -> None:
    sets = [f"data.root={tiny_root}"]
    runs = plan_study(str(tmp_path), "tiny", ["fedkim", "fedplug"], [0, 1], sets)
    assert [(r.variant, r.recipe.variant, r.seed, r.recipe.seed) for r in runs] == [
        ("fedkim", "fedkim", 0, 0),
        ("fedplug", "fedplug", 0, 0),
        ("fedkim", "fedkim", 1, 1),
        ("fedplug", "fedplug", 1, 1),
    ]
    assert len({run.folder.url for run in runs}) == 4
    assert not any(run.is_evaluated for run in runs)
    assert list(tmp_path.iterdir()) == []


# The tasks of an evaluation share its questions: covid19 beside it leaves mortality with fewer.
@pytest.mark.parametrize(
    ("scored", "done"),
    [(["mortality"], True), (["mortality", "covid19"], False), (["covid19"], False)],
)
def test_a_run_that_was_asked_other_tasks_is_asked_again(
    scored: list[str], done: bool, score: Callable[..., None], tiny_root: str, tmp_path: Path
) -> None:
    sets = [f"data.root={tiny_root}"]
    (run,) = plan_study(str(tmp_path), "tiny", ["fedkim"], [0], sets, tasks=["mortality"])
    score(run, *scored)
    assert run.is_evaluated is done


def test_a_task_without_test_data_is_refused(tiny_root: str, tmp_path: Path) -> None:
    sets = [f"data.root={tiny_root}"]
    with pytest.raises(RecipeError, match=r"is to ask the tasks \['mortalty'\]"):
        plan_study(str(tmp_path), "tiny", ["fedkim"], [0], sets, tasks=["mortalty"])


@pytest.mark.parametrize(
    ("variants", "seeds"), [(["fedkim", "fedkim"], [0]), ([], [0]), (["fedkim"], [])]
)
def test_nothing_to_compare_is_refused(variants: list[str], seeds: list[int]) -> None:
    with pytest.raises(RecipeError, match="at least one of each, and none twice"):
        plan_study("unused", "tiny", variants, seeds)


def test_a_run_of_another_recipe_is_refused_and_kept(tiny_root: str, tmp_path: Path) -> None:
    sets = [f"data.root={tiny_root}"]
    (run,) = plan_study(str(tmp_path), "tiny", ["fedkim"], [0], sets)
    RunFolder.create(run.folder.url, run.recipe)
    plan_study(str(tmp_path), "tiny", ["fedkim"], [0], sets)
    with pytest.raises(StorageError, match="injection differ"):
        plan_study(str(tmp_path), "tiny", ["fedkim"], [0], [*sets, "injection.lr=1.0"])


def test_a_run_of_other_data_is_refused(tiny_root: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_root, root)
    sets, out = [f"data.root={root}"], str(tmp_path / "study")
    (run,) = plan_study(out, "tiny", ["fedkim"], [0], sets)
    RunFolder.create(run.folder.url, run.recipe, run.data)
    plan_study(out, "tiny", ["fedkim"], [0, 1], sets)

    card = root / "dataset.json"
    values = json.loads(card.read_text())
    values["files"].pop("clients/north/covid19/valid/part-0.parquet")
    card.write_text(json.dumps(values))
    message = r"The files of clients in .* are not those that the run .*seed-0' began with"
    with pytest.raises(StorageError, match=message):
        plan_study(out, "tiny", ["fedkim"], [0, 1], sets)

    old = run.folder.read_json("run.json")
    del old["data"]  # as it was written before runs said what data they began with
    run.folder.write_json("run.json", old)
    plan_study(out, "tiny", ["fedkim"], [0, 1], sets)


def test_a_study_asks_every_task_something(tiny_root: str, tmp_path: Path) -> None:
    sets = [f"data.root={tiny_root}", "evaluation.max_questions=11"]
    with pytest.raises(RecipeError, match=r"max_questions is 11 for 12 tasks \(lung_opacity, "):
        plan_study(str(tmp_path), "tiny", ["fedkim"], [0], sets)
    plan_study(str(tmp_path), "tiny", ["fedkim"], [0], sets, tasks=["mortality"])


@pytest.mark.parametrize(
    ("variant", "added", "same"),
    [
        ("fedplug", [], True),
        ("no_task", [], True),
        ("fedkim", ["federation.rounds=7", "injection.lr=1.0"], True),
        ("fedkim_fedprox", [], False),
        ("public_only", [], False),
        ("fedkim", ["seed=1"], False),
        ("fedkim", ["federation.local.epochs=9"], False),
        ("fedkim", ["encoders.dropout=0.3"], False),
    ],
)
def test_first_rounds_are_the_same_where_their_inputs_are(
    variant: str, added: list[str], same: bool
) -> None:
    first = first_round_inputs(load_recipe("tiny"))
    assert (first_round_inputs(load_recipe("tiny", added, variant)) == first) is same
