"""A tiny bundle of each test's own, which the test may spoil."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def bundle_url(tmp_path: Path, write_tiny_bundle: Callable[[Path, str], str]) -> str:
    """URL of a bundle of this test's own."""
    return write_tiny_bundle(tmp_path, "m3oe")
