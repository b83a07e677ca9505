"""``fedkim data import`` as a person meets it."""

import json
from collections.abc import Callable
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
        (["ptbxl", "--src", ".", "--dst", "x", "-o", "test_folds=[10"], "[10' cannot be read"),
        (["paper", "--src", ".", "--dst", "x", "--name", "n"], "'n' is one name"),
        (
            ["mitbih", "--src", ".", "--dst", "x", "--rejected-list", "no/r.csv"],
            "cannot be written",
        ),
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


def test_the_list_of_rejections_is_there_when_it_is_needed(
    tmp_path: Path, write_own_data: Callable[..., None]
) -> None:
    source, listed = tmp_path / "hospital", tmp_path / "rejected.csv"
    write_own_data(source, num_patients=24, visits=1)
    (source / "files/3.png").unlink()
    (tmp_path / "mapping.yaml").write_text(run("manifest", "--explain"))
    (tmp_path / "key").write_text("5a" * 32)
    command = ["manifest", "--workers", "1", "--rejected-list", str(listed)]
    command += ["--src", str(source), "--dst", str(tmp_path / "root")]
    command += ["--mapping", str(tmp_path / "mapping.yaml"), "--key", str(tmp_path / "key")]
    with pytest.raises(DataError, match="1 of 24 examples cannot be used: file_missing 1"):
        run(*command)
    rows = "item,row,column,reason\npatients.csv,4,xray,file_missing\n"
    assert listed.read_text() == rows
    listed.write_text("")
    run(*command, "--max-rejected", "10%")
    assert listed.read_text() == rows
    assert "use --again" in run(*command, "--max-rejected", "10%")
    assert listed.read_text() == rows


def test_the_tasks_that_a_mapping_may_name_are_listed() -> None:
    result = RUNNER.invoke(app, ["data", "tasks", "--json"])
    listed = {task["id"]: task for task in json.loads(result.output)}
    assert len(listed) == 12
    assert listed["med_vqa"]["metrics"][:2] == ["exact_match", "token_f1"]
    assert listed["mortality"]["modalities"] == ["lab", "vital", "input", "output"]
    assert "mortality" in RUNNER.invoke(app, ["data", "tasks"]).output
