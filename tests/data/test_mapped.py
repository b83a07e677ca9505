"""Sets that are larger than memory: the same rows, from the disk."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fedkim_ray.data import mapped
from fedkim_ray.data.loading import SampleSet, load_samples
from fedkim_ray.data.schema import DataSpec, ImageSpec, SignalSpec, sample_table
from fedkim_ray.errors import EnvironmentProblemError
from fedkim_ray.storage import Folder

from .test_loading import png

SPEC = DataSpec(image=ImageSpec(size_px=4), signal=SignalSpec(leads=("I",), num_samples=3))


def write_two_files(folder: Path) -> None:
    """Five images and five signals, in row groups of two."""
    words = {"task": "t", "question": "?", "answer": "No", "label": 0}
    for part in range(2):
        rows = [
            {"sample_id": f"s{i}", "subject_id": f"p{i}", **words}
            for i in range(5 * part, 5 + 5 * part)
        ]
        for i, row in enumerate(rows):
            row |= {"signal": np.full((1, 3), i, np.float32)} if part else {"image": png(50 * i)}
        pq.write_table(sample_table(rows, SPEC), folder / f"part-{part}.parquet", row_group_size=2)


def described(samples: SampleSet) -> list[tuple[str, dict[str, list[float]]]]:
    return [(e.sample_id, {m: a.tolist() for m, a in e.arrays.items()}) for e in samples]


def test_a_mapped_set_is_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("FEDKIM_SCRATCH", str(cache))
    write_two_files(tmp_path)
    inside = load_samples(Folder.at(tmp_path), SPEC)
    monkeypatch.setattr(mapped, "MAPPED_FROM_BYTES", 300)
    outside = load_samples(Folder.at(tmp_path), SPEC)
    assert (inside.table.column(0).num_chunks, outside.table.column(0).num_chunks) == (1, 6)
    assert described(outside) == described(inside)
    assert [outside[i].sample_id for i in (9, 0, 5)] == ["s9", "s0", "s5"]
    some = load_samples(Folder.at(tmp_path), SPEC, rows=[1, 6, 9])
    assert [e.sample_id for e in some] == ["s1", "s6", "s9"]
    # Private rows: nothing is left where another user or a later process could find it.
    assert list((cache / "mapped").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_two_files(tmp_path)
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("FEDKIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mapped, "MAPPED_FROM_BYTES", 0)
    with pytest.raises(
        EnvironmentProblemError, match=r"cannot be laid out on disk.*FEDKIM_SCRATCH"
    ):
        load_samples(Folder.at(tmp_path), SPEC)


LIMITED = """
import resource, sys
import torch
from fedkim_ray.data import mapped
from fedkim_ray.data.loading import JoinedSamples, epoch_batches, load_batches
from fedkim_ray.data.schema import DataSpec, SignalSpec
from fedkim_ray.data.tasks import task_table
from fedkim_ray.federation.client_data import load_client_data

root, extra_mb, mapped.MAPPED_FROM_BYTES = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
spec = DataSpec(signal=SignalSpec(leads=tuple("ABCDEFGHIJKL")))
facts = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
limit = int(facts["VmData"].split()[0]) * 1024 + (extra_mb << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
data = load_client_data(root, "a", [task_table()["ecg_abnormal"]], spec)
examples = JoinedSamples(data.train)
lists = epoch_batches(len(examples), 64, torch.Generator().manual_seed(0))
batches = load_batches(examples, lists, spec)
print(len(examples), sum(int(b.inputs["signal"].values[:, 0, 0].sum()) for b in batches))
"""


@pytest.mark.slow
def test_an_epoch_passes_over_a_set_of_several_times_the_memory(tmp_path: Path) -> None:
    """590 MB of electrocardiograms, in a process that may take 192 MB more than it has."""
    spec = DataSpec(signal=SignalSpec(leads=tuple("ABCDEFGHIJKL")))
    words = {"task": "ecg_abnormal", "question": "?", "answer": "No", "label": 0}
    for split, groups in (("train", 48), ("valid", 1)):
        folder = tmp_path / "clients/a/ecg_abnormal" / split
        folder.mkdir(parents=True)
        rows = [
            {"sample_id": f"s{i}", "subject_id": "p", "signal": np.full((12, 1000), i), **words}
            for i in range(256)
        ]
        table = sample_table(rows, spec)
        with pq.ParquetWriter(
            folder / "part-0.parquet", table.schema, compression="zstd"
        ) as writer:
            for _ in range(groups):
                writer.write_table(table)

    def run(mapped_from_bytes: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LIMITED, str(tmp_path), "192", str(mapped_from_bytes)]
        # The usual allocators reserve far more than they use, which would count.
        plain = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=plain)

    done = run(16 << 20)
    # 48 times 0 + 1 + ... + 255.
    assert done.stdout.split() == ["12288", str(48 * 255 * 128)], done.stderr
    assert "failed" in run(1 << 40).stderr, "in memory it does not fit"
