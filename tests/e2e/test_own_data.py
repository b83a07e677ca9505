"""A hospital's own data by docs/data.md: imported, described, trained on, and asked over HTTP."""

import base64
import re
import shlex
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from fedkim_ray.bundle.read import load_bundle
from fedkim_ray.cli.main import app
from fedkim_ray.data.root import read_card
from fedkim_ray.evaluation.results import read_report
from fedkim_ray.storage import Folder
from serve.api import create_app
from serve.gateway import Gateway
from serve.transformers_engine import TransformersEngine

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def steps() -> str:
    """The page's section that a steward follows."""
    text = PAGE.read_text()
    return text[text.index("## Your own data") : text.index("## What holds")]


def commands() -> list[str]:
    return re.findall(r"^    (fedkim .*)$", steps(), re.MULTILINE)


def follow(command: str) -> None:
    """Run one line of the page in this process, with its redirection."""
    line, _, target = command.partition(" > ")
    result = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    if target:
        Path(target).write_text(result.stdout)


@pytest.fixture
def hospital(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_own_data: Callable[..., None]
) -> Path:
    """A working folder with ``hospital/`` and the page's recipe."""
    monkeypatch.chdir(tmp_path)
    # With a new key for each run no patient might, once in thousands of runs, fall into a place.
    (tmp_path / "subject.key").write_text("5a" * 32)
    write_own_data(tmp_path / "hospital", num_patients=80, visits=1)
    recipe = steps()[steps().index("    format_version") :].split("\n\n")[0]
    (tmp_path / "own.yaml").write_text(textwrap.dedent(recipe))
    return tmp_path


def test_the_page_leads_to_a_whole_root(hospital: Path) -> None:
    *before, run = commands()
    assert run.startswith("fedkim run own.yaml")
    for command in before:
        follow(command)
    card = read_card(Folder.at(hospital / "root"))
    assert card.clients == ("harbor", "st-mary")
    assert (hospital / "root/description.html").is_file()


@pytest.mark.ray
@pytest.mark.slow
def test_a_task_of_ones_own_is_trained_and_served(hospital: Path, ray_cluster: None) -> None:
    for command in commands():
        follow(command)
    report = read_report(Folder.at(hospital / "runs/own/evaluation"))
    assert report.result("needs_cath").headline == "recall"
    bundle = load_bundle(str(hospital / "runs/own/bundle"))
    engine = TransformersEngine(bundle)
    try:
        with TestClient(create_app(Gateway(engine))) as client:
            listed = {task["id"]: task for task in client.get("/v1/tasks").json()["data"]}
            assert listed["needs_cath"]["role"] == "train"
            image = base64.b64encode((hospital / "hospital/files/1.png").read_bytes()).decode()
            sent = {
                "image": f"data:image/png;base64,{image}",
                "series": {"vital": {"hrt": [110, 111]}, "lab": {"troponin": [900]}},
                "text": "Chest pain, sudden",
            }
            reply = client.post("/v1/tasks/needs_cath/predict", json={"inputs": [sent]})
            assert reply.status_code == 200, reply.text
            told = reply.json()["data"][0]
            assert told["answer"] in ("Yes", "No")
            assert sum(told["label_probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
    finally:
        engine.close()
