"""How fast are data imported and loaded, and does training wait for them?

Peers in the same run: a plain Pillow loop over the same image files, and a loop of `wfdb.rdsamp`
over the same records. Images and electrocardiograms are SYNTHETIC, in the shapes of the paper:
224 x 224 pixels, 12 leads x 1000 samples. JSON on stdout.

    python benchmarks/data.py [--examples N] [--out FILE]
"""

import csv
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import wfdb
from harness import Timing, interleave, options, report
from PIL import Image

from fedkim_ray.config import EncodersConfig, ImageEncoderConfig, SignalEncoderConfig
from fedkim_ray.data.demo.ecg import LEADS, EcgFindings, draw_ecgs
from fedkim_ray.data.demo.ecg_tasks import NORMAL
from fedkim_ray.data.importing.request import ImportRequest
from fedkim_ray.data.importing.run import run_import
from fedkim_ray.data.loading import SampleSet, epoch_batches, load_batches, load_samples
from fedkim_ray.data.manifest.explain import read_mapping
from fedkim_ray.data.root import DatasetCard, read_card
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.encoders.bundle import LightModel
from fedkim_ray.federation.client import fresh_adam
from fedkim_ray.federation.objective import batch_loss
from fedkim_ray.storage import Folder
from fedkim_ray.types import Task

SIZE_PX, RATE_HZ, NUM_SAMPLES = 224, 100, 1000
BATCH = 32
TASK_OF = {"image": "lung_opacity", "signal": "ecg_abnormal"}
TRAINED_BATCHES = 6
"""Batches after which the waiting share is known well enough: the paper's encoder is large."""
MAPPING = """
table: table.csv
title: synthetic
licence: none
kind: synthetic
task: {task}
subject: file
label: label
{column}
"""
COLUMN = {
    "image": f"image: {{column: file, size_px: {SIZE_PX}}}",
    "signal": f"signal: {{column: file, leads: [{', '.join(LEADS)}]}}",
}


def write_source(folder: Path, modality: str, number: int) -> list[Path]:
    """Write files, and the table that names them; return their paths."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    write = _write_images if modality == "image" else _write_records
    names = write(folder, number, rng)
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *((n, i % 2) for i, n in enumerate(names))])
    (folder / "mapping.yaml").write_text(
        MAPPING.format(task=TASK_OF[modality], column=COLUMN[modality])
    )
    return [folder / name for name in names]


def _write_images(folder: Path, number: int, rng: np.random.Generator) -> list[str]:
    """Write smooth shapes with the noise of a detector, about as large as a chest film's PNG."""
    names = [f"{i:05d}.png" for i in range(number)]
    for name in names:
        coarse = Image.fromarray(rng.integers(40, 200, (14, 14), np.uint8))
        smooth = np.asarray(coarse.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC), float)
        noisy = (smooth + rng.normal(0, 2, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / name)
    return names


def _write_records(folder: Path, number: int, rng: np.random.Generator) -> list[str]:
    signals = draw_ecgs(EcgFindings.of(np.full(number, NORMAL)), rng)
    for i, signal in enumerate(signals):
        wfdb.wrsamp(
            f"{i:05d}",
            fs=RATE_HZ,
            units=["mV"] * 12,
            sig_name=list(LEADS),
            p_signal=signal.T.astype(float),
            fmt=["16"] * 12,
            adc_gain=[1000.0] * 12,
            baseline=[0] * 12,
            write_dir=str(folder),
        )
    return [f"{i:05d}.hea" for i in range(number)]


def import_source(source: Path, root: Path, key: Path, workers: int) -> None:
    """Import everything to one client."""
    run_import(
        ImportRequest(
            importer="manifest",
            source=str(source),
            root=str(root),
            options={"mapping": read_mapping(source / "mapping.yaml")},
            rule={"test_share": 0.0, "public_share": 0.0, "valid_share": 0.01, "clients": 1},
            key_path=key,
            workers=workers,
        )
    )


def train_folder(root: Path, modality: str) -> Folder:
    """Return where the client's training examples lie."""
    return Folder.at(root) / "clients/client-0" / TASK_OF[modality] / "train"


def load_root(root: Path, modality: str, card: DatasetCard, workers: int) -> int:
    """Read a training set and go through one epoch of batches."""
    samples = load_samples(train_folder(root, modality), card.spec)
    lists = epoch_batches(len(samples), BATCH, torch.Generator().manual_seed(0))
    return sum(batch.size for batch in load_batches(samples, lists, card.spec, workers))


def pillow_loop(paths: list[Path]) -> int:
    """Open, convert and stack image files as a plain training script does."""
    count = 0
    for start in range(0, len(paths), BATCH):
        arrays = []
        for path in paths[start : start + BATCH]:
            with Image.open(path) as image:
                arrays.append(np.asarray(image.convert("L"), np.float32) / 255.0)
        values = (torch.from_numpy(np.stack(arrays))[:, None] - 0.5) / 0.25
        count += len(values)
    return count


def wfdb_loop(paths: list[Path]) -> int:
    """Read and stack records as a plain training script does."""
    count = 0
    for start in range(0, len(paths), BATCH):
        stems = [str(path.with_suffix("")) for path in paths[start : start + BATCH]]
        arrays = [wfdb.rdsamp(stem)[0].T.astype(np.float32) for stem in stems]
        count += len(torch.from_numpy(np.stack(arrays)))
    return count


def waiting_share(samples: SampleSet, task: Task, card: DatasetCard) -> float:
    """Return the share of a client's training loop that is spent waiting for the next batch."""
    encoders = EncodersConfig(
        image=ImageEncoderConfig(dim=192, depth=12), signal=SignalEncoderConfig()
    )
    model = LightModel(encoders, card.spec, (task,))
    optimizer = fresh_adam(list(model.parameters()), 1e-4, 0.0)
    order = torch.Generator().manual_seed(0)
    lists = islice(epoch_batches(len(samples), BATCH, order), TRAINED_BATCHES)
    batches = load_batches(samples, lists, card.spec)
    begun, waited = time.perf_counter(), 0.0
    for batch, seconds in _timed(batches):
        waited += seconds
        loss = batch_loss(model, batch, [task], {task.id: 1.0})
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
    return waited / (time.perf_counter() - begun)


def _timed(batches: Iterator[Any]) -> Iterator[tuple[Any, float]]:
    while True:
        begun = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - begun


def rates(timing: Timing, number: int, size_bytes: int) -> dict[str, float]:
    """Return medians as rates; MB are of the source's files."""
    seconds = timing.median_s
    return {
        **timing.as_json(),
        "examples_per_s": round(number / seconds, 1),
        "source_mb_per_s": round(size_bytes / 1e6 / seconds, 2),
    }


def measure(modality: str, folder: Path, number: int, repeats: int) -> Mapping[str, Any]:
    """Measure import, loading and waiting of one modality."""
    paths = write_source(folder / modality, modality, number)
    size_bytes = sum(p.stat().st_size for p in (folder / modality).iterdir())
    root, key, task = folder / f"{modality}-root", folder / "key", TASK_OF[modality]
    imports = interleave(
        {
            f"{workers} workers": lambda workers=workers: import_source(
                folder / modality, folder / f"{modality}-{time.monotonic_ns()}", key, workers
            )
            for workers in (1, 2)
        },
        repeats,
        warmup=0,
    )
    import_source(folder / modality, root, key, 1)
    card = read_card(Folder.at(root))
    loaded = card.num_examples(f"clients/client-0/{task}/train/")
    peer = {"image": pillow_loop, "signal": wfdb_loop}[modality]
    loads = interleave(
        {
            "peer": lambda: peer(paths[:loaded]),
            **{
                f"fedkim, {workers} decoding": lambda workers=workers: load_root(
                    root, modality, card, workers
                )
                for workers in (0, 1, 2)
            },
        },
        repeats,
    )
    samples = load_samples(train_folder(root, modality), card.spec)
    the_task = next(t for t in TASKS if t.id == task)
    waits = [waiting_share(samples, the_task, card) for _ in range(3)]
    return {
        "examples": loaded,
        "import": {name: rates(t, number, size_bytes) for name, t in imports.items()},
        "load": {name: rates(t, loaded, size_bytes) for name, t in loads.items()},
        "times_as_fast_as_peer": {
            name: round(loads["peer"].ratio_to(timing), 2)
            for name, timing in loads.items()
            if name != "peer"
        },
        "waiting_share_of_training": round(sorted(waits)[1], 4),
    }


def main() -> None:
    """Measure both modalities and print the report."""
    parser = options(__doc__ or "")
    parser.add_argument("--examples", type=int, default=1000, help="files of each modality")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as scratch:
        results = {
            modality: measure(modality, Path(scratch), chosen.examples, chosen.repeats)
            for modality in ("image", "signal")
        }
    results["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    settings = {"examples": chosen.examples, "batch": BATCH, "threads": chosen.threads}
    report("How fast are data imported and loaded?", settings, results, chosen.out)


if __name__ == "__main__":
    main()
