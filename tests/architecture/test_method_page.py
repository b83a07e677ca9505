"""docs/method.md names functions and tests: each of them exists."""

import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/method.md").read_text()


def test_every_equation_stands_beside_a_function_that_is_there() -> None:
    named = re.findall(r"`([a-z0-9_/]+)\.py: ([A-Za-z_.]+)`", PAGE)
    assert len(named) > 15
    for module, name in named:
        found = importlib.import_module("fedkim_ray." + module.replace("/", "."))
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found), name


def test_every_claim_stands_beside_a_test_that_is_there() -> None:
    named = re.findall(r"`(tests/[a-z0-9_/]+\.py)`", PAGE)
    assert len(named) > 5
    for path in named:
        assert (ROOT / path).is_file(), path
