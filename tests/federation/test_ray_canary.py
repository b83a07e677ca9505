"""Marks planted in a client's private data are searched for wherever Ray and the run keep bytes.

One client's life: a good round, one round for each way to break, and at last one that leaks on
purpose, which shows that the search finds what there is.
"""

import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
import torch

from fedkim_ray.config import FederationConfig
from fedkim_ray.data.demo.tiny import CLIENTS, SPEC
from fedkim_ray.data.loading import SampleSet
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.federation.client import OpenClients
from fedkim_ray.federation.coordinator import run_round
from fedkim_ray.federation.exchange import OpenTrainer
from fedkim_ray.federation.plan import RoundPlan
from fedkim_ray.federation.ray_clients import RayClients
from fedkim_ray.federation.round_files import publish_aggregated
from fedkim_ray.federation.setup import SetupOf, make_setups
from fedkim_ray.federation.strategies.fedavg import FedAvg
from fedkim_ray.federation.update import ClientUpdate
from fedkim_ray.storage import Folder
from fedkim_ray.types import Params

TRAINED = {t.id: t for t in TASKS if t.role == "train"}
GOOD, QUOTES, DIVERGES, CORRUPT, HANGS, DIES, LEAKS = range(7)
CAUSES = {
    GOOD: None,
    QUOTES: "ValueError",
    DIVERGES: "ClientFailedError",
    CORRUPT: "DataError",
    HANGS: "ClientTimeout",
    DIES: "ClientLost",
}
"""What each round's failure is counted as."""
FEDERATION = FederationConfig(cpus_per_client=0.5)
IMPATIENT = FEDERATION.model_copy(update={"client_timeout_s": 20.0})


class Unlucky:
    """A client that breaks in another way in each round."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.leaked: list[Any] = []

    def train_round(self, plan: RoundPlan, theta_global: Params) -> ClientUpdate:
        """Train, and while at it or then do what the round says."""
        import ray

        samples = self.client.data.train["mortality"]
        example = samples[0]
        private = example.question, example.arrays["lab"]
        if plan.round_index == QUOTES:
            wrong_batch = ValueError(f"could not convert {private}")
            with patch("fedkim_ray.federation.client.batch_loss", side_effect=wrong_batch):
                return self.client.train_round(plan, theta_global)
        if plan.round_index == CORRUPT:
            broken = with_broken_images(samples, private[0])
            with patch.dict(self.client.data.train, mortality=broken):
                return self.client.train_round(plan, theta_global)
        update: ClientUpdate = self.client.train_round(plan, theta_global)
        if plan.round_index == HANGS:
            time.sleep(3600)
        if plan.round_index == DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        if plan.round_index == LEAKS:
            print(private[0], flush=True)
            self.leaked = [ray.put(private[1])]
        if plan.round_index == DIVERGES:
            wrong = {name: torch.full_like(v, torch.nan) for name, v in update.delta.items()}
            return replace(update, delta=wrong)
        return update


def with_broken_images(samples: SampleSet, content: str) -> SampleSet:
    """Return the rows with images that are no images."""
    images = pa.array([content.encode()] * len(samples), pa.binary())
    return SampleSet(samples.table.append_column("image", images), samples.spec, samples.origin)


def south_is_unlucky(setup_of: SetupOf) -> OpenTrainer:
    """Open clients of whom south breaks."""
    opened, unlucky = OpenClients(setup_of), dict[str, Unlucky]()

    def open_client(client_id: str) -> Any:
        if client_id != "south":
            return opened(client_id)
        return unlucky.setdefault(client_id, Unlucky(opened(client_id)))

    return open_client


def ray_places() -> Iterator[Path | bytes]:
    """Give the session's folder (logs, spill), the object store's memory, and the metrics page."""
    import ray
    from ray._private.worker import _global_node as node

    yield Path(node.get_session_dir_path())
    [raylet] = node.all_processes["raylet"]
    for handle in Path(f"/proc/{raylet.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # handles come and go
            if "plasma" in os.readlink(handle):
                yield handle.read_bytes()
    for alive in ray.nodes():
        address = f"{alive['NodeManagerAddress']}:{alive['MetricsExportPort']}"
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as page:
            yield page.read()


def found_by_ray(canaries: Any) -> set[str]:
    places = list(ray_places())
    assert len(places) >= 3  # the store's memory was found
    return set[str]().union(*(canaries.found_in(place) for place in places))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_private_data_are_nowhere_and_a_leak_is_found(tiny, canaries, tmp_path: Path) -> None:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    assert canaries.found_in(Path(canaries.root))  # the marks are where they belong
    own = {client: tuple(TRAINED[t] for t in ids) for client, ids in CLIENTS.items()}
    setups = make_setups(
        list(CLIENTS),
        canaries.root,
        SPEC,
        tiny.encoders,
        own,
        list(TRAINED.values()),
        FEDERATION,
    )
    run, state, told = Folder.at(tmp_path / "run"), FedAvg().init(tiny.params), []
    scratch = str(tmp_path / "scratch")
    with RayClients(setups, FEDERATION, 7, "canary", scratch, opener=south_is_unlucky) as clients:
        for r, cause in CAUSES.items():
            federation = IMPATIENT if r == HANGS else FEDERATION
            state, report = run_round(
                FedAvg(), state, clients, r, federation=federation, on_event=told.append
            )
            assert report.failures_by_cause == ({cause: 1} if cause else {})
            publish_aggregated(run / str(r), state, report.model_dump(mode="json"))
        assert "mortality/train/part-0.parquet', row " in json.dumps(told)  # the broken image's
        assert canaries.found_in(json.dumps(told).encode()) == set()
        assert canaries.found_in(tmp_path) == set()  # the run folder, and Ray Train's own files
        assert found_by_ray(canaries) == set()

        run_round(FedAvg(), state, clients, LEAKS, federation=FEDERATION)
        found = found_by_ray(canaries)
    assert {"Zarathustra-Quellwasser-4711", "float32 bytes"} <= found
