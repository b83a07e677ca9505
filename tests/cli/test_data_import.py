"""``fedkim data import`` as a person meets it."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fedkim_ray.cli.main import app
from fedkim_ray.errors import DataError

RUNNER = CliRunner()


def run(*arguments: str) -> str:
    result = RUNNER.invoke(app, ["data", "import", *arguments], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_the_importers_are_listed() -> None:
    assert {"mitbih", "manifest", "support2", "clif"} <= json.loads(run("--json")).keys()


def test_explain_prints_a_whole_mapping_and_the_others_their_text() -> None:
    assert yaml.safe_load(run("manifest", "--explain"))["subject"] == "patient_no"
    text = run("mitbih", "--explain")
    assert "201 and 202 are one person" in " ".join(text.split())
    assert "-o window_s=10.0" in text


def test_check_says_what_is_missing_and_ends_with_one(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["data", "import", "mitbih", "--src", str(tmp_path), "--check"])
    assert result.exit_code == 1
    assert "no file '*.hea'" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "There is no importer 'nothing'"),
        (["mitbih", "--src", "."], "No data root was named"),
        (["mitbih", "--dst", "x"], "--src names the folder"),
        (["mitbih", "--src", ".", "--dst", "x", "--max-rejected", "many"], "'many' is no share"),
        (["mitbih", "--src", ".", "--dst", "x", "-o", "rate"], "has no '='"),
        (["manifest", "--src", ".", "--dst", "x"], "mapping: Field required"),
        (["manifest", "--src", ".", "--dst", "x", "--mapping", "none.yaml"], "There is no mapping"),
    ],
)
def test_a_bad_request_is_refused_with_what_to_do(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        run(*arguments)
    assert message in str(caught.value)


def test_the_tasks_that_a_mapping_may_name_are_listed() -> None:
    result = RUNNER.invoke(app, ["data", "tasks", "--json"])
    listed = {task["id"]: task for task in json.loads(result.output)}
    assert len(listed) == 12
    assert listed["med_vqa"]["metrics"][:2] == ["exact_match", "token_f1"]
    assert listed["mortality"]["modalities"] == ["lab", "vital", "input", "output"]
    assert "mortality" in RUNNER.invoke(app, ["data", "tasks"]).output
