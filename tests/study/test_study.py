"""A small study of the tiny recipe: runs, sharing, going on, and what is written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedkim_ray.storage import Folder
from fedkim_ray.study.results import COMPARISON, StudyReport

FEDKIM = Path(sys.executable).parent / "fedkim"
SETS = [
    "federation.rounds=1",
    "federation.execution=local",
    "federation.local.epochs=1",
    "injection.steps_per_round=3",
    "evaluation.max_questions=96",
    "evaluation.bootstrap_samples=20",
    "evaluation.max_new_tokens=1",
]


def run_study(out: Path, root: str, *added: str) -> StudyReport:
    command = [str(FEDKIM), "compare", "study", "tiny", "--variants", "fedkim,fedplug"]
    for value in (f"data.root={root}", *SETS):
        command += ["--set", value]
    done = subprocess.run(
        [*command, "--out", str(out), "--json", *added],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return StudyReport.model_validate_json(done.stdout)


def log_of(out: Path, variant: str) -> list[dict[str, object]]:
    lines = (out / f"runs/{variant}/seed-0/log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.ray
def test_a_study_runs_each_variant_once_and_shares_the_first_round(
    tiny_root: str, tmp_path: Path
) -> None:
    report = run_study(tmp_path, tiny_root)
    supervised = ["logistic_regression", "heads", "client:north", "client:south"]
    assert [*report.arms] == ["fedkim", "fedplug", *supervised, "public", "centralised"]
    assert [run.shared_first_round for run in report.runs] == [False, True]
    first = [
        Folder.at(tmp_path / f"runs/{v}/seed-0/rounds/0000/aggregated").sha256(
            "encoders.safetensors"
        )
        for v in report.variants
    ]
    assert first[0] == first[1]
    assert StudyReport.model_validate_json((tmp_path / COMPARISON).read_text()) == report
    mortality = report.headline("logistic_regression", "mortality")
    assert mortality is not None
    assert mortality.difference is not None
    assert report.headline("logistic_regression", "covid19") is None
    page = (tmp_path / "comparison.html").read_text()
    assert "synthetic" in page
    assert (tmp_path / "comparison.png").read_bytes()[:4] == b"\x89PNG"

    before = log_of(tmp_path, "fedkim"), log_of(tmp_path, "fedplug")
    assert run_study(tmp_path, tiny_root) == report
    narrow = run_study(tmp_path, tiny_root, "--tasks", "mortality", "--references", "none")
    assert {(r.task, r.num_questions) for r in narrow.results} == {("mortality", 48)}
    assert (log_of(tmp_path, "fedkim"), log_of(tmp_path, "fedplug")) == before
