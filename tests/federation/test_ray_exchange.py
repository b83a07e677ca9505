"""When a member's process ends well, and when it is to be started again."""

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from fedkim_ray.federation.client import OpenClients
from fedkim_ray.federation.ray_exchange import RayExchange, live
from fedkim_ray.federation.setup import PoolSetup

pytestmark = pytest.mark.ray


def be_a_member(tiny, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Be a member whose first word to the mailbox fails."""

    def fail(exchange: RayExchange) -> None:
        raise error

    monkeypatch.setattr(RayExchange, "join", fail)
    setup = PoolSetup.join(list(tiny.setups.values())).model_dump_json()
    live(RayExchange("north", None), setup, OpenClients)


def test_a_dead_mailbox_ends_a_member(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    be_a_member(tiny, monkeypatch, ActorDiedError())


def test_a_mailbox_out_of_reach_is_an_error_to_start_again_from(
    tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ActorUnavailableError):
        be_a_member(tiny, monkeypatch, ActorUnavailableError("The connection broke.", None))
