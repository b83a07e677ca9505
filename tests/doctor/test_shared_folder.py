"""A mark in a folder: found by who shares it, not by who has another of the same name."""

import os
from pathlib import Path

import pytest

from fedkim_ray.doctor.shared_folder import clear_mark, find_mark, leave_mark
from fedkim_ray.errors import EnvironmentProblemError


def test_a_shared_folder_is_found_and_left_as_it_was(tmp_path: Path) -> None:
    url = str(tmp_path / "runs/first")
    made = leave_mark(url, ".mark")
    assert made == [tmp_path / "runs/first", tmp_path / "runs"]
    assert find_mark(url, ".mark") == ""
    assert os.listdir(url) == [".mark"]
    clear_mark(url, ".mark", made)
    assert os.listdir(tmp_path) == []


def test_a_folder_of_ones_own_is_no_shared_folder_and_is_not_made(tmp_path: Path) -> None:
    leave_mark(str(tmp_path / "mine/run"), ".mark")
    assert "driver's file is not seen" in find_mark(str(tmp_path / "theirs/run"), ".mark")
    assert os.listdir(tmp_path) == ["mine"]


def test_what_was_there_or_came_meanwhile_stays(tmp_path: Path) -> None:
    url = str(tmp_path / "runs/first")
    made = leave_mark(url, ".mark")
    (tmp_path / "runs/second").mkdir()
    clear_mark(url, ".mark", made)
    assert os.listdir(tmp_path / "runs") == ["second"]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    url = str(tmp_path / "runs" / "first")
    with pytest.raises(EnvironmentProblemError):
        leave_mark(url, "x" * 300)  # longer than a name may be
    assert os.listdir(tmp_path) == []
