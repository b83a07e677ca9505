"""Two workers that are one client, over real gloo in two processes."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fedkim_ray.federation.client import Client
from fedkim_ray.federation.exchange import LocalExchange, RoundPlan, serve_plans
from fedkim_ray.federation.setup import ClientSetup
from fedkim_ray.federation.team import Team, TeamExchange
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.federation.wire import decode_update, encode_params, encode_update


def test_a_batch_is_split_over_all_and_nothing_is_left() -> None:
    shares = [Team(rank, 3).share([0, 1, 2, 3]) for rank in range(3)]
    assert shares == [[0, 3], [1], [2]]


def one_worker(rank: int, folder: str, setup: str, plan: str) -> None:
    """Be one of two workers, and leave the update that would be sent."""
    place = Path(folder)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{place / 'meeting'}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    from fedkim_ray.federation.wire import decode_params

    params = decode_params((place / "params").read_bytes())
    local = LocalExchange(RoundPlan.model_validate_json(plan), params)
    client = Client(ClientSetup.model_validate_json(setup))
    assert client.team == Team(rank, 2)
    serve_plans(TeamExchange(local if rank == 0 else None), lambda _: client)
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
