"""Fixtures that several folders share."""

from collections.abc import Iterator

import pytest

from fedkim_ray.data.demo.tiny import write_tiny_root


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a small synthetic data root with two clients; do not write into it."""
    url = str(tmp_path_factory.mktemp("data") / "tiny")
    write_tiny_root(url)
    return url


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray of four logical CPUs, started once for all tests marked ``ray``."""
    import ray

    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=300 * 2**20,
    )
    yield
    ray.shutdown()
