"""The Dockerfile as text: no engine runs here, so what can be read off it is held."""

import re
from pathlib import PurePosixPath

import pytest

from tests.cluster.manifests import OVERLAYS, ROOT, pods

TEXT = (ROOT / "cluster/docker/Dockerfile").read_text()
LINES = re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()


def instructions(word: str) -> list[str]:
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{word} ")]


def test_every_stage_starts_from_a_pinned_image_or_an_earlier_stage() -> None:
    stages: list[str] = []
    for line in instructions("FROM"):
        source, stage = line.split(" AS ")
        assert source in stages or source == "python:${PYTHON}"
        stages.append(stage)
    assert stages[-2:] == ["cpu", "cuda"]
    [python] = [line for line in instructions("ARG") if line.startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=3\.1[12]\.\d+-slim-\w+", python)


def test_what_is_installed_is_pinned_as_in_the_project() -> None:
    installs = [line for line in instructions("RUN") if line.startswith("pip install")]
    assert len(installs) == 4
    assert all("torch==2.13.0" in line or "-c constraints.txt" in line for line in installs)
    assert sum('".[${EXTRAS}]"' in line for line in installs) == 2
    assert instructions("ARG").count("EXTRAS=importers") == 2
    copied = {word for line in instructions("COPY") for word in line.split()}
    assert {"constraints.txt", "fedkim_ray", "serve"} <= copied


def test_it_runs_as_the_user_of_the_manifests_and_not_as_root() -> None:
    users = {t["spec"]["securityContext"]["runAsUser"] for _, t in pods("dev")}
    assert users == {10001}
    for stage in ("run", "cpu", "cuda"):
        body = TEXT.split(f" AS {stage}\n")[1].split("\nFROM ")[0]
        assert re.findall(r"^USER (.*)$", body, re.MULTILINE)[-1] == "10001:10001"
    assert "--uid 10001" in TEXT


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_scratch_lies_on_a_disk_that_every_pod_may_write(overlay: str) -> None:
    [scratch] = re.findall(r"FEDKIM_SCRATCH=(\S+)", TEXT)
    for name, template in pods(overlay):
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        for container in template["spec"]["containers"]:
            mounts = container["volumeMounts"]
            around = [m for m in mounts if PurePosixPath(scratch).is_relative_to(m["mountPath"])]
            assert len(around) == 1, name
            assert not around[0].get("readOnly"), name
            assert volumes[around[0]["name"]]["emptyDir"].get("medium") != "Memory", name


def test_it_has_a_health_check_and_what_probes_need() -> None:
    assert 'CMD ["ray", "health-check"]' in instructions("HEALTHCHECK")[0]
    assert " wget " in TEXT


def test_everything_copied_is_let_through_by_the_ignore_file() -> None:
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    sources = {
        word for line in instructions("COPY") if "--from" not in line for word in line.split()[:-1]
    }
    assert sources == allowed
