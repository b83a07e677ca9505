"""What is refused before a federation starts, and setups that travel together."""

import pytest
from torch import nn

from fedkim_ray.config import FederationConfig
from fedkim_ray.data.demo.tiny import CLIENTS, SPEC
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.errors import RecipeError
from fedkim_ray.federation.setup import PoolSetup, make_setups, require_no_running_statistics

TRAINED = {t.id: t for t in TASKS if t.role == "train"}


def test_a_model_with_running_statistics_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(RecipeError, match=r"Layer '1' \(BatchNorm1d\) keeps running statistics"):
        require_no_running_statistics(model)
    require_no_running_statistics(nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)))


def test_the_projects_own_encoders_keep_none(tiny) -> None:
    require_no_running_statistics(LightModel(tiny.encoders, SPEC, list(TRAINED.values())))


def test_setups_travel_together_and_come_apart_again(tiny) -> None:
    setups = list(tiny.setups.values())
    pool = PoolSetup.model_validate_json(PoolSetup.join(setups).model_dump_json())
    assert [pool.of(setup.client_id) for setup in setups] == setups


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"strategy": {"name": "krum", "num_faulty": 1}}, "strategy krum needs 5. 2 clients"),
        ({"strategy": {"name": "median"}}, "strategy median needs 3. 2 clients"),
        ({"strategy": {"name": "trimmed_mean"}}, "strategy trimmed_mean needs 5. 2 clients"),
        ({"min_clients": 2, "clients_per_round": 1}, "min_clients is 2.*a round asks 1"),
        ({"min_clients_per_modality": 3}, "min_clients_per_modality is 3"),
    ],
)
def test_a_round_that_could_never_have_enough_is_refused(
    tiny, config: dict[str, object], text: str
) -> None:
    own = {client: tuple(TRAINED[t] for t in ids) for client, ids in CLIENTS.items()}
    with pytest.raises(RecipeError, match=text):
        make_setups(
            list(CLIENTS),
            tiny.root,
            SPEC,
            tiny.encoders,
            own,
            list(TRAINED.values()),
            FederationConfig.model_validate(config),
        )
