"""The configuration decides which engine answers."""

import pytest

from fedkim_ray.errors import EnvironmentProblemError
from serve.app import ServeArgs, build_app
from serve.engine_choice import EngineName, WantedEngine, choose_engine
from serve.vllm_start import rank_room


@pytest.mark.parametrize(
    ("wanted", "num_gpus", "has_vllm", "chosen"),
    [
        ("auto", 0.0, True, "transformers"),  # vLLM's adapters are slow on CPU
        ("auto", 1.0, True, "vllm"),
        ("auto", 0.5, True, "vllm"),
        ("auto", 1.0, False, "transformers"),
        ("vllm", 0.0, True, "vllm"),
        ("transformers", 1.0, True, "transformers"),
    ],
)
def test_vllm_is_preferred_where_a_gpu_and_vllm_are(
    wanted: WantedEngine, num_gpus: float, has_vllm: bool, chosen: EngineName
) -> None:
    assert choose_engine(wanted, num_gpus, has_vllm) == chosen


def test_vllm_that_is_not_installed_is_told() -> None:
    with pytest.raises(EnvironmentProblemError, match=r"not installed.*cluster/vllm_env.sh"):
        choose_engine("vllm", 0.0, has_vllm=False)


def test_room_for_an_adapter_is_the_next_rank_that_vllm_offers() -> None:
    assert [rank_room(rank) for rank in (1, 6, 8, 96, 512)] == [1, 8, 8, 128, 512]
    with pytest.raises(EnvironmentProblemError, match="rank 600"):
        rank_room(600)


def test_a_service_whose_engine_is_not_installed_is_not_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serve.app.has_vllm", lambda: False)
    with pytest.raises(EnvironmentProblemError, match="not installed"):
        build_app(ServeArgs(bundle="anywhere", no_auth=True, engine="vllm"))
