"""What a cluster must have before a run starts on it."""

import pytest
import ray
from ray.core.generated.autoscaler_pb2 import ClusterConfig

from fedkim_ray import ray_connection, ray_session
from fedkim_ray.errors import EnvironmentProblemError
from fedkim_ray.recipe_files import load_recipe


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, int] | None]:
    """A cluster of four CPUs without a GPU; its autoscaler, if any, says what it may grow to."""
    may: dict[str, dict[str, int] | None] = {"grow_to": None}
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(
        ray_connection.state, "get_max_resources_from_cluster_config", lambda: may["grow_to"]
    )
    return may


def test_a_cluster_that_stays_small_is_refused(cluster: dict[str, dict[str, int] | None]) -> None:
    ray_session._require({"CPU": 4, "GPU": 0})
    with pytest.raises(EnvironmentProblemError, match="4 CPUs"):
        ray_session._require({"CPU": 36})
    with pytest.raises(EnvironmentProblemError, match=r"0 GPUs.*injection\.use_gpu=false"):
        ray_session._require({"CPU": 4, "GPU": 1})


def test_nodes_that_an_autoscaler_may_add_count(
    cluster: dict[str, dict[str, int] | None],
) -> None:
    cluster["grow_to"] = {"CPU": 36, "GPU": 4}
    ray_session._require({"CPU": 36, "GPU": 4})
    with pytest.raises(EnvironmentProblemError, match="36 CPUs"):
        ray_session._require({"CPU": 37})
    with pytest.raises(EnvironmentProblemError, match="4 GPUs"):
        ray_session._require({"GPU": 5})
    assert ray_connection.most_resources() == {"CPU": 36.0, "GPU": 4.0}
    cluster["grow_to"] = {"CPU": 2}  # more nodes are there than the autoscaler would keep
    assert ray_connection.most_resources() == {"CPU": 4.0}


def test_the_kinds_of_nodes_that_an_autoscaler_may_add(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ClusterConfig()
    for name, cpus, most in [("small", 2, 4), ("large", 16, -1), ("retired", 64, 0)]:
        group = config.node_group_configs.add(name=name, max_count=most)
        group.resources["CPU"] = cpus
    monkeypatch.setattr(ray_connection.state, "get_cluster_config", lambda: config)
    assert ray_connection.kinds_to_come() == [{"CPU": 2.0}, {"CPU": 16.0}]
    monkeypatch.setattr(ray_connection.state, "get_cluster_config", lambda: None)
    assert ray_connection.kinds_to_come() == []


@pytest.mark.parametrize(("use_gpu", "gpus"), [("true", 2), ("false", 0)])
def test_each_injection_worker_on_a_gpu_needs_one(use_gpu: str, gpus: int) -> None:
    sets = ["injection.num_workers=2", f"injection.use_gpu={use_gpu}"]
    assert ray_session._gpus_needed(load_recipe("tiny", sets)) == gpus


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
