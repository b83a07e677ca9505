"""The tiny bundles of tests/evaluation, written into a folder that a test may spoil."""

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

# Test folders are no packages, so the neighbour is loaded by its path.
_spec = spec_from_file_location("tiny_bundle", Path(__file__).parents[1] / "evaluation/conftest.py")
assert _spec is not None
assert _spec.loader is not None
_tiny_bundle = module_from_spec(_spec)
_spec.loader.exec_module(_tiny_bundle)


@pytest.fixture
def write_tiny_bundle(tmp_path: Path, tiny_root: str) -> Callable[[str], str]:
    """Write a bundle with the named adapter and return its URL; ``injected`` lies beside it."""

    def write(adapter: str = "m3oe") -> str:
        url: str = _tiny_bundle.write_tiny_bundle(tmp_path, tiny_root, adapter)
        return url

    return write


@pytest.fixture
def bundle_url(write_tiny_bundle: Callable[[str], str]) -> str:
    """URL of a bundle of this test's own."""
    return write_tiny_bundle("m3oe")
