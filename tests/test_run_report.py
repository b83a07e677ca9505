"""A finished run is scored, and its bundle's card tells the scores."""

from collections.abc import Callable
from pathlib import Path

from fedkim_ray.bundle.layout import CARD, ValidationFacts
from fedkim_ray.bundle.read import load_bundle
from fedkim_ray.evaluation.results import read_report
from fedkim_ray.federation.round_files import publish_scores
from fedkim_ray.pipeline import run_recipe, validation_of
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.run_folder import RunFolder
from fedkim_ray.run_report import score_run
from fedkim_ray.storage import copy_published


def test_scoring_a_run_writes_its_scores_into_the_bundle(
    write_tiny_bundle: Callable[[Path, str], str], tiny_root: str, tmp_path: Path
) -> None:
    recipe = load_recipe(
        "tiny",
        [
            f"data.root={tiny_root}",
            "federation.rounds=1",
            "evaluation.bootstrap_samples=20",
            "evaluation.max_questions=16",
        ],
        "public_only",
    )
    run = RunFolder.create(str(tmp_path / "run"), recipe)
    made = RunFolder(run.folder.at(tmp_path / "made"), "made", recipe)
    write_tiny_bundle(tmp_path / "made", "m3oe")
    copy_published(made.bundle, run.bundle, "bundle", 1)
    copy_published(made.folder / "injected", run.injected(0), "injection", 1)
    report = score_run(run, ["covid19", "med_vqa"])
    card = run.bundle.read_bytes(CARD).decode()
    covid = report.result("covid19")
    auroc, asked = covid.metrics["auroc"], covid.num_questions
    match = report.result("med_vqa").metrics["exact_match"]
    assert f"| covid19 | train | synthetic | {asked} | AUROC {auroc}, accuracy " in card
    assert f"| exact match {match}, token F1 " in card
    assert report.subset_note in card
    assert read_report(run.evaluation).version == load_bundle(run.bundle.url).facts.version
    assert run_recipe(run, lambda event: None).version == report.version  # resumed, though done
    assert run.bundle.read_bytes(CARD).decode() == card


def test_what_clients_validated_goes_from_the_last_round_into_the_bundle(tmp_path: Path) -> None:
    recipe = load_recipe("tiny", [f"data.root={tmp_path}"])
    run = RunFolder.create(str(tmp_path / "run"), recipe)
    assert validation_of(run) == {}
    before = {"covid19": {"examples": 12.0, "auroc": 0.5}, "mortality": {"examples": 3.0}}
    after = {"covid19": {"examples": 12.0, "auroc": 0.75}, "mortality": {"examples": 3.0}}
    publish_scores(run.scores(1), {"round_index": 1, "before": before, "after": after})
    told = ValidationFacts(num_examples=12, auroc_before=0.5, auroc_after=0.75)
    assert validation_of(run) == {"covid19": told}  # one class alone has no curve
