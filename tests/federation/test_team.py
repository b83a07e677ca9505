"""Two workers that are one client, over real gloo in two processes."""

import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import ProcessException

from fedkim_ray.errors import DataError
from fedkim_ray.federation.client import Client
from fedkim_ray.federation.exchange import LocalExchange, serve_plans
from fedkim_ray.federation.plan import ClientFailure, RoundPlan
from fedkim_ray.federation.setup import ClientSetup
from fedkim_ray.federation.team import Team, TeamExchange
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.federation.wire import decode_update, encode_params, encode_update
from fedkim_ray.types import Params


def test_a_batch_is_split_over_all_and_nothing_is_left() -> None:
    shares = [Team(rank, 3).share([0, 1, 2, 3]) for rank in range(3)]
    assert shares == [[0, 3], [1], [2]]


def meet(rank: int, place: Path) -> None:
    """Join the other worker."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{place / 'meeting'}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )


class Lopsided:
    """A trainer that waits for the other worker's gradients in worker 0 and fails in worker 1."""

    def train_round(self, plan: RoundPlan, theta_global: Params) -> ClientUpdate:
        """Fail, or wait."""
        if dist.get_rank() == 1:
            raise DataError("Row 3 of its share.", "An image.", "Export it again.")
        Team(0, 2).sum_number(1.0)
        raise AssertionError("Worker 1 has no gradients.")

    score_round = train_round


def one_lopsided_worker(rank: int, folder: str, plan: str) -> None:
    """Be one of two workers, and leave the failure that is told."""
    meet(rank, Path(folder))
    local = LocalExchange(RoundPlan.model_validate_json(plan), {})
    try:
        serve_plans(TeamExchange(local, leads=rank == 0), lambda _: Lopsided())
    finally:
        if rank == 1:
            assert isinstance(local.answer, ClientFailure), local.answer
            (Path(folder) / "failure").write_text(local.answer.model_dump_json())


@pytest.mark.slow
def test_an_error_of_one_worker_is_told_and_ends_the_team(tiny, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(ProcessException):
        mp.spawn(one_lopsided_worker, (str(tmp_path), tiny.plan("south").model_dump_json()), 2)
    assert time.monotonic() - begun < 50.0  # nobody waits for the group's 60 s
    told = ClientFailure.model_validate_json((tmp_path / "failure").read_text())
    assert (told.client_id, told.code) == ("south", "DataError")
    assert "Row 3 of its share" in told.message


def one_worker(rank: int, folder: str, setup: str, plan: str) -> None:
    """Be one of two workers, and leave the update that would be sent."""
    place = Path(folder)
    meet(rank, place)
    from fedkim_ray.federation.wire import decode_params

    params = decode_params((place / "params").read_bytes())
    local = LocalExchange(RoundPlan.model_validate_json(plan), params)
    client = Client(ClientSetup.model_validate_json(setup))
    assert client.team == Team(rank, 2)
    serve_plans(TeamExchange(local, leads=rank == 0), lambda _: client)
    if rank == 0:
        assert isinstance(local.answer, ClientUpdate), local.answer
        (place / "update").write_bytes(bytes(encode_update(local.answer)))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_send_the_update_of_one(tiny_without_dropout, tmp_path: Path) -> None:
    tiny = tiny_without_dropout
    # 96 examples in batches of 19: the last batch has one, and leaves a worker without a share.
    plan = tiny.plan("south", batch_size=19, mu=0.1)
    alone = Client(tiny.setups["south"]).train_round(plan, tiny.params)
    (tmp_path / "params").write_bytes(bytes(encode_params(tiny.params)))
    arguments = (str(tmp_path), tiny.setups["south"].model_dump_json(), plan.model_dump_json())
    mp.spawn(one_worker, arguments, nprocs=2)
    together = decode_update((tmp_path / "update").read_bytes(), "south")
    assert together.num_examples == alone.num_examples
    # Adam's first steps are +-lr, whatever the gradient: where its sign is rounding, they differ.
    pairs = [(together.delta[n].reshape(-1), v.reshape(-1)) for n, v in alone.delta.items()]
    came, expected = (torch.cat(side) for side in zip(*pairs, strict=True))
    assert torch.isclose(came, expected, rtol=1e-2, atol=1e-4).float().mean() > 0.99
    for name in ("train/loss", "valid/mortality/loss_after"):
        assert abs(together.metrics[name] - alone.metrics[name]) < 1e-3
