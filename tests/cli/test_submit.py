"""What `fedkim submit` refuses at once, and how a job's log becomes its state."""

import json
import os
from pathlib import Path

import pytest

from fedkim_ray import ray_auth
from fedkim_ray.cli.submit import _cluster_url, summary
from fedkim_ray.errors import SubmissionError
from fedkim_ray.ray_jobs import JobFacts, as_event, split_log
from tests.cli.test_bad_input import fedkim

LOG = """2026-01-01 INFO a line of Ray's
{"event": "run_started", "run_id": "tiny-1", "rounds": 3, "first": 1, "clients": []}
{"event": "injected", "round": 1, "loss": 0.5, "seconds": 2.0}
{"not": "an event"}
{broken
{"event": "round_started", "round": 2, "clients": []}
"""


def test_a_folder_that_the_cluster_cannot_find_is_refused() -> None:
    assert _cluster_url("s3://bucket/run") == "s3://bucket/run"
    assert _cluster_url("/shared/run") == "/shared/run"
    with pytest.raises(SubmissionError, match="--out is 'runs/tiny'"):
        _cluster_url("runs/tiny")


def test_events_are_told_from_other_lines_of_a_log() -> None:
    events, others = split_log(LOG)
    assert [event["event"] for event in events] == ["run_started", "injected", "round_started"]
    assert len(others) == 3
    assert as_event("[1]") is None


def test_a_jobs_state_is_read_from_its_events() -> None:
    events, _ = split_log(LOG)
    facts = summary(JobFacts("fedkim-job-1", "RUNNING", "", "/run", None, tuple(events)))
    assert (facts["rounds_done"], facts["rounds"], facts["last_event"]) == (2, 3, "round_started")
    # It was resumed after its first round and has not said more than that.
    early = summary(JobFacts("fedkim-job-1", "RUNNING", "", "/run", None, tuple(events[:1])))
    assert early["rounds_done"] == 1
    assert json.dumps(facts)


def test_a_token_turns_authentication_on_unless_the_user_chose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (ray_auth.AUTH_MODE, *ray_auth.TOKEN_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    assert not ray_auth.send_token_if_there_is_one()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    monkeypatch.setenv(ray_auth.AUTH_MODE, "disabled")
    assert not ray_auth.send_token_if_there_is_one()
    monkeypatch.delenv(ray_auth.AUTH_MODE)
    assert ray_auth.send_token_if_there_is_one()
    assert os.environ[ray_auth.AUTH_MODE] == "token"


def test_what_would_stop_a_run_is_told_before_anything_is_reached(tmp_path: Path) -> None:
    told = {
        ("submit", "tiny"): "--out is None",
        ("submit", "--out", "/shared/run"): "No recipe was named",
        ("submit", "tinny", "--out", "/shared/run"): "no recipe 'tinny'",
        ("submit", "tiny", "--resume", "--out", "/run"): "was given 'tiny'",
        ("submit", "--resume", "--out", "/run", "--set", "seed=9"): "was given '--set seed=9'",
    }
    for arguments, names in told.items():
        done = fedkim(*arguments, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert names in " ".join(done.stderr.split())


@pytest.mark.slow
def test_the_doctor_finds_a_run_that_would_fail(tmp_path: Path) -> None:
    done = fedkim("doctor", "tiny", "--set", "data.root=nowhere", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    first = json.loads(done.stdout)[0]
    assert (first["check"], first["level"]) == ("recipe", "fail")
    assert "no data root" in first["came"]


@pytest.mark.slow
def test_the_doctor_says_at_once_that_a_head_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    done = fedkim("doctor", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    first = json.loads(done.stdout)[0]
    assert (first["check"], first["where"], first["level"]) == ("ray", "127.0.0.1:1", "fail")
