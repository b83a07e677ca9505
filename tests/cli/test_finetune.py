"""`fedkim finetune` on a tiny bundle, in this process."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedkim_ray.cli.main import app
from fedkim_ray.errors import DataError, EnvironmentProblemError, RecipeError


def finetune(*arguments: str) -> str:
    """Run the command for task sepsis and return what it printed."""
    command = ["finetune", *arguments, "--task", "sepsis", "--steps", "2"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_a_curve_for_machines_and_in_files(bundle_url: str, tiny_root: str, tmp_path: Path) -> None:
    out = str(tmp_path / "curve")
    said = finetune(bundle_url, "--data", tiny_root, "--shots", "4,0", "--out", out, "--json")
    curve = json.loads(said)
    assert curve == json.loads((tmp_path / "curve/shots.json").read_text())
    # Half of the 48 subjects, each with one question, are the pool; the other half are asked.
    assert (curve["num_questions"], curve["num_subjects"]) == (24, 24)
    assert [point["shots"] for point in curve["points"]] == [0, 4]
    for point in curve["points"]:
        apart = point["injected"]["value"] - point["uninjected"]["value"]
        assert point["difference"]["value"] == pytest.approx(apart)
    assert (tmp_path / "curve/shots.svg").read_text().startswith("<svg")


def test_a_curve_for_people_says_what_the_data_are(bundle_url: str, tiny_root: str) -> None:
    said = finetune(bundle_url, "--data", tiny_root, "--shots", "0", "--max-questions", "16")
    assert "sepsis (synthetic): auroc on 8 questions" in " ".join(said.split())


def test_a_place_for_the_curve_that_takes_no_file_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblemError):  # before the bundle, which is not there
        finetune("no-bundle", "--data", "no-data", "--out", str(tmp_path / "file" / "curve"))


def test_what_cannot_be_tuned_is_refused(bundle_url: str, tiny_root: str) -> None:
    with pytest.raises(RecipeError, match=r"--shots is 'few'"):
        finetune(bundle_url, "--data", tiny_root, "--shots", "few")
    with pytest.raises(DataError, match="25 shots of 'sepsis'"):
        finetune(bundle_url, "--data", tiny_root, "--shots", "25")
