"""The tiny bundle, loaded once."""

import pytest

from fedkim_ray.bundle.read import LoadedBundle, load_bundle


@pytest.fixture(scope="session")
def bundle(bundle_url: str) -> LoadedBundle:
    """The tiny bundle in memory."""
    return load_bundle(bundle_url)
