"""A process group of one, and the tiny public samples."""

from collections.abc import Iterator

import pytest

from fedkim_ray.data.demo.tiny import SPEC, write_tiny_root
from fedkim_ray.data.loading import SampleSet, load_samples
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.storage import Folder


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SampleSet]:
    """Public examples of the trained tasks."""
    root = Folder.at(tmp_path_factory.mktemp("samples"))
    write_tiny_root(root.url, num_private=16)
    trained = [task.id for task in TASKS if task.role == "train"]
    return {t: load_samples(root / "public" / t / "train", SPEC) for t in trained}


@pytest.fixture(scope="session")
def one_process() -> Iterator[None]:
    """A process group of this process alone; DeepSpeed keeps it, so one serves all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        names = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        for name, value in {**names, "MASTER_PORT": "29531"}.items():
            patch.setenv(name, value)
        import deepspeed
        import deepspeed.ops

        patch.setitem(deepspeed.ops.__compatible_ops__, "deepspeed_shm_comm", False)
        deepspeed.init_distributed(dist_backend="gloo")
        yield
