"""Key files."""

from pathlib import Path

import pytest

from fedkim_ray.errors import EnvironmentProblemError
from serve.auth import ApiKeys, hash_key
from serve.errors import UnauthorizedError


def test_a_key_is_known_by_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"ward {hash_key('secret')}\n\nlab {hash_key('other')}\n")
    keys = ApiKeys.from_file(str(file))
    assert keys.require("Bearer secret") == "ward"
    assert keys.require("bearer other") == "lab"
    assert "secret" not in file.read_text()


@pytest.mark.parametrize("header", [None, "", "secret", "Basic secret", "Bearer", "Bearer no"])
def test_anything_else_is_refused(header: str | None) -> None:
    with pytest.raises(UnauthorizedError, match="Authorization: Bearer KEY"):
        ApiKeys({"ward": hash_key("secret")}).require(header)


@pytest.mark.parametrize("text", ["", "ward\n", "ward secret\n"])
def test_a_key_file_that_would_let_nobody_in_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(EnvironmentProblemError, match="cannot be used"):
        ApiKeys.from_file(str(file))
