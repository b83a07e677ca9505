"""What an examination says of a cluster that is not there."""

import socket

import pytest

from fedkim_ray.config import Recipe
from fedkim_ray.doctor.ray_examination import examine
from fedkim_ray.recipe_files import load_recipe


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address at which nobody listens, in RAY_ADDRESS."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    return address


def of_root(root: str | None) -> Recipe | None:
    return load_recipe("tiny", [f"data.root={root}"]) if root else None


@pytest.mark.parametrize("with_recipe", [False, True])
def test_an_unreachable_cluster_is_named_with_its_remedy(
    nobody: str, tiny_root: str, with_recipe: bool
) -> None:
    *_, last = examine(of_root(tiny_root if with_recipe else None), None)
    assert (last.check, last.level, last.where) == ("ray", "fail", nobody)
    assert f"nobody listens at {nobody}" in last.came
    assert "RAY_AUTH_TOKEN" in last.remedy


def test_a_recipe_that_cannot_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    *_, last = examine(of_root("/nowhere"), None)
    assert (last.check, last.level, last.where) == ("recipe", "fail", "tiny")
    assert "/nowhere" in last.came
