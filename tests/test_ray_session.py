"""What a cluster must have before a run starts on it."""

import pytest
import ray

from fedkim_ray import ray_session
from fedkim_ray.errors import EnvironmentProblemError
from fedkim_ray.recipe_files import load_recipe


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, int] | None]:
    """A cluster of four CPUs; its autoscaler, if any, says what it may grow to."""
    may: dict[str, dict[str, int] | None] = {"grow_to": None}
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(
        ray_session.state, "get_max_resources_from_cluster_config", lambda: may["grow_to"]
    )
    return may


def test_a_cluster_that_stays_small_is_refused(cluster: dict[str, dict[str, int] | None]) -> None:
    ray_session._require_cpus(4)
    with pytest.raises(EnvironmentProblemError, match="4 CPUs"):
        ray_session._require_cpus(36)


def test_nodes_that_an_autoscaler_may_add_count(
    cluster: dict[str, dict[str, int] | None],
) -> None:
    cluster["grow_to"] = {"CPU": 36, "GPU": 4}
    ray_session._require_cpus(36)
    with pytest.raises(EnvironmentProblemError, match="36 CPUs"):
        ray_session._require_cpus(37)


@pytest.mark.parametrize(
    "pin",
    [
        "federation.client_selector={north: {site: north}}",
        "injection.worker_selector={role: injection}",
    ],
)
def test_labels_need_a_cluster(monkeypatch: pytest.MonkeyPatch, pin: str) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    recipe = load_recipe("tiny", [pin])
    with (
        pytest.raises(EnvironmentProblemError, match="one node without labels"),
        ray_session.ray_session(recipe, 1),
    ):
        pass
