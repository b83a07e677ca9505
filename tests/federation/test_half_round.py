"""A worker that dies in a round goes on in the middle of its epoch, to the same bits."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedkim_ray.data.loading import Batch
from fedkim_ray.federation.client import Client
from fedkim_ray.federation.plan import RoundPlan
from fedkim_ray.federation.update import ClientUpdate

EVERY = {"epochs": 2, "checkpoint_every": 4}
"""South's 96 examples are six batches an epoch: twelve, kept after the fourth and the eighth."""


class Killed(Exception):
    """Stands for a SIGKILL between two batches."""


class MortalClient(Client):
    """A client that counts its batches and may die before one of them."""

    dies_before = 99
    num_batches = 0

    def _batches(self, plan: RoundPlan, skip: int = 0) -> Iterator[tuple[Batch | None, int]]:
        for k, batch in enumerate(super()._batches(plan, skip), start=skip):
            if k == self.dies_before:
                raise Killed
            self.num_batches += 1
            yield batch


@pytest.fixture(autouse=True)
def half_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where half-trained rounds lie."""
    monkeypatch.setenv("FEDKIM_CACHE", str(tmp_path))
    return tmp_path / "half_rounds"


@pytest.fixture
def expected(tiny) -> ClientUpdate:
    """What a client sends that was never killed."""
    return Client(tiny.setups["south"]).train_round(tiny.plan("south", epochs=2), tiny.params)


def die(tiny, before: int) -> None:
    client = MortalClient(tiny.setups["south"])
    client.dies_before = before
    with pytest.raises(Killed):
        client.train_round(tiny.plan("south", **EVERY), tiny.params)


def test_it_goes_on_in_its_second_epoch_to_the_same_bits(
    tiny, expected: ClientUpdate, half_rounds: Path
) -> None:
    die(tiny, before=10)
    [kept] = half_rounds.iterdir()
    assert half_rounds.stat().st_mode & 0o077 == 0
    client = MortalClient(tiny.setups["south"])
    update = client.train_round(tiny.plan("south", **EVERY), tiny.params)
    assert client.num_batches == 4  # of twelve, after the eight that were kept
    assert not kept.exists()
    assert update.metrics["train/loss"] == expected.metrics["train/loss"]
    assert all(torch.equal(update.delta[name], w) for name, w in expected.delta.items())


def test_before_the_first_copy_it_begins_anew(tiny, half_rounds: Path) -> None:
    die(tiny, before=3)
    assert list(half_rounds.iterdir()) == []
    client = MortalClient(tiny.setups["south"])
    client.train_round(tiny.plan("south", **EVERY), tiny.params)
    assert client.num_batches == 12


def test_a_second_attempt_goes_on_from_the_first(tiny) -> None:
    die(tiny, before=10)
    client = MortalClient(tiny.setups["south"])
    again = tiny.plan("south", **EVERY).model_copy(update={"attempt": 1})
    client.train_round(again, tiny.params)
    assert client.num_batches == 4


@pytest.mark.parametrize(("days", "num_left"), [(6, 1), (8, 0)])
def test_what_a_given_up_round_left_goes_after_a_week(
    tiny, half_rounds: Path, days: int, num_left: int
) -> None:
    die(tiny, before=10)
    [kept] = half_rounds.iterdir()
    os.utime(kept, times=(0, time.time() - days * 24 * 3600))
    Client(tiny.setups["south"]).train_round(tiny.plan("south", 1, **EVERY), tiny.params)
    assert len([*half_rounds.iterdir()]) == num_left


def test_another_round_or_other_parameters_begin_anew(tiny) -> None:
    die(tiny, before=10)
    other = {name: w + 0.01 for name, w in tiny.params.items()}
    for index, theta in ((1, tiny.params), (0, other)):
        client = MortalClient(tiny.setups["south"])
        client.train_round(tiny.plan("south", index, **EVERY), theta)
        assert client.num_batches == 12


def test_another_run_or_other_encoders_begin_anew(tiny) -> None:
    die(tiny, before=10)
    own = tiny.setups["south"]
    encoders = own.encoders.model_copy(update={"dropout": 0.2})
    for changes in ({"run_id": "another"}, {"encoders": encoders}):
        client = MortalClient(own.model_copy(update=changes))
        client.train_round(tiny.plan("south", **EVERY), tiny.params)
        assert client.num_batches == 12


def test_data_that_were_written_anew_begin_anew(tiny, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(tiny.root, root)
    setup = tiny.setups["south"].model_copy(update={"data_url": str(root)})
    client = MortalClient(setup)
    client.dies_before = 10
    with pytest.raises(Killed):
        client.train_round(tiny.plan("south", **EVERY), tiny.params)
    for file in root.glob("clients/south/*/train/*.parquet"):
        shutil.copy2(file, file.with_suffix(".new"))  # the same bytes, size and time
        file.with_suffix(".new").replace(file)
    client = MortalClient(setup)
    client.train_round(tiny.plan("south", **EVERY), tiny.params)
    assert client.num_batches == 12


def test_unless_it_is_asked_to_a_client_writes_nothing(tiny, half_rounds: Path) -> None:
    Client(tiny.setups["south"]).train_round(tiny.plan("south"), tiny.params)
    assert not half_rounds.exists()
