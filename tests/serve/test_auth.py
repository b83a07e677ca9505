"""Key files, and what a key opens."""

import time
from pathlib import Path

import pytest

from fedkim_ray.errors import EnvironmentProblemError
from serve.auth import LOOK_S, ApiKeys, KeyFacts, KeyFile, hash_key, main
from serve.errors import ForbiddenError, UnauthorizedError


def test_a_key_is_known_by_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"ward {hash_key('secret')}\n\nprobe {hash_key('other')} metrics\n")
    keys = ApiKeys.from_file(str(file))
    assert keys.require("Bearer secret", "predict") == "ward"
    assert keys.require("bearer other", "metrics") == "probe"
    assert "secret" not in file.read_text()


def test_a_names_old_key_and_its_new_one_are_both_valid(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"ward {hash_key('old')}\nward {hash_key('new')} metrics\n")
    keys = ApiKeys.from_file(str(file))
    assert keys.require("Bearer old", "predict") == "ward"
    assert keys.require("Bearer new", "metrics") == "ward"


def test_a_changed_file_is_read_again_and_an_unusable_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    file = tmp_path / "keys"
    file.write_text(f"ward {hash_key('old')}\n")
    keys = KeyFile(str(file))
    file.write_text(f"lab {hash_key('new')}\n")
    assert keys.require("Bearer old", "predict") == "ward"
    now += LOOK_S
    with pytest.raises(UnauthorizedError):
        keys.require("Bearer old", "predict")
    assert keys.require("Bearer new", "predict") == "lab"

    file.write_text(f"lab {hash_key('new')}\nward typo\n")
    for _ in range(2):  # told once a change
        now += LOOK_S
        assert keys.require("Bearer new", "predict") == "lab"
    file.unlink()
    now += LOOK_S
    assert keys.require("Bearer new", "predict") == "lab"
    assert [r.message.partition(" cannot")[2][:24] for r in caplog.records] == [
        " be used (line 2). Each ",
        " be used (FileNotFoundEr",
    ]
    assert "typo" not in caplog.text


def test_a_key_opens_its_scopes_alone_but_for_an_admins() -> None:
    keys = ApiKeys(
        [
            ("probe", KeyFacts(hash_key("one"), frozenset({"metrics"}))),
            ("boss", KeyFacts(hash_key("two"), frozenset({"admin"}))),
        ]
    )
    with pytest.raises(ForbiddenError, match=r"'probe' has the scopes metrics.*needs 'predict'"):
        keys.require("Bearer one", "predict")
    assert {keys.require("Bearer two", s) for s in ("predict", "metrics", "admin")} == {"boss"}


def test_a_made_key_opens_with_its_line(tmp_path: Path) -> None:
    key, line = (text.partition(":")[2].strip() for text in main(["ward", "predict"]).splitlines())
    file = tmp_path / "keys"
    file.write_text(line)
    assert ApiKeys.from_file(str(file)).require(f"Bearer {key}", "predict") == "ward"
    assert main(["ward", "everything"]).startswith("usage")
    assert main([]).startswith("usage")


@pytest.mark.parametrize("header", [None, "", "secret", "Basic secret", "Bearer", "Bearer no"])
def test_anything_else_is_refused(header: str | None) -> None:
    with pytest.raises(UnauthorizedError, match="Authorization: Bearer KEY"):
        ApiKeys([("ward", KeyFacts(hash_key("secret")))]).require(header, "predict")


@pytest.mark.parametrize("text", ["", "ward\n", "ward secret\n", f"ward {'0' * 64} everything\n"])
def test_a_key_file_that_would_let_nobody_in_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(EnvironmentProblemError, match="cannot be used"):
        ApiKeys.from_file(str(file))
