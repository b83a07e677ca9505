"""The demo's data root: three hospitals with synthetic images and ECGs and real patients.

All twelve tasks and seven modalities are there. The same seed and sizes give the same files; a
root that is whole already is left as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from fedkim_ray.data.demo import clif, support2
from fedkim_ray.data.demo.chest_tasks import chest_rows
from fedkim_ray.data.demo.ecg import LEADS, NUM_SAMPLES, SAMPLING_RATE_HZ
from fedkim_ray.data.demo.ecg_tasks import ecg_rows
from fedkim_ray.data.demo.icu import Patients, fit_scales
from fedkim_ray.data.demo.sites import SITES, PatientSplit, Site, split_clif, split_support2
from fedkim_ray.data.root import CARD, DatasetCard, Source, altered_files, read_card, write_card
from fedkim_ray.data.schema import DataSpec, ImageSpec, SignalSpec, sample_table, write_samples
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder
from fedkim_ray.types import Modality, Task, TaskId

NAME = "fedkim-demo-2"
"""The number rises with every change of the data that a seed gives."""
VALID_SHARE = 0.1
"""Share of a client's examples that it validates on."""
PUBLIC_SHARE = 0.1
"""Public examples as a share of the private ones."""
CLIF_TEST_SHARE, CLIF_PUBLIC_SHARE = 0.2, 0.12
"""So few patients: a tenth of them would not give the inputs a scale."""
SIZE_PX = 64

Row = dict[str, object]
Rows = Callable[[np.random.Generator], list[Row]]
Progress = Callable[[int, int, str], None]
"""Called with files done, files in all, and the name of the file just written."""
PatientSource = Callable[[], tuple[Patients, Patients]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSizes:
    """Numbers of examples."""

    private_images: int = 1500
    """Of each trained image task, over all clients, training and validation."""
    private_ecgs: int = 2400
    """Of the trained ECG task, likewise."""
    test_trained: int = 600
    """Test examples of each trained image or ECG task."""
    test_unseen: int = 400
    """Test examples of each unseen task."""
    test_patients: int = 1500
    """SUPPORT2 patients in the test of mortality; the first of them are that of sepsis."""


def fetch_patients() -> tuple[Patients, Patients]:
    """Return SUPPORT2's and CLIF's patients, downloaded once."""
    return support2.read_support2(support2.fetch_support2()), clif.read_clif(clif.fetch_clif())


def write_demo_root(
    url: str,
    seed: int = 0,
    progress: Progress | None = None,
    sizes: DemoSizes | None = None,
    patients: PatientSource = fetch_patients,
) -> DatasetCard:
    """Write the root, unless it is there already, and return its card.

    Args:
        url: Where to write it, any fsspec URL.
        seed: Seed of all synthetic examples and of all splits.
        progress: Told after each file.
        sizes: Numbers of examples.
        patients: Where the real patients come from.

    Raises:
        DataError: something other than a demo root is at ``url``.
        EnvironmentProblemError: the real patients could not be downloaded.
        StorageError: a downloaded file is not the one expected.
    """
    root, sizes = Folder.at(url), sizes or DemoSizes()
    if card := _whole_card(root, seed, sizes):
        return card
    support, intensive = patients()
    files = {**_synthetic_files(sizes), **_patient_files(support, intensive, sizes, seed)}
    _clear(root, set(files))
    public = [name for name in files if name.startswith("public/mortality/")]
    spec = demo_spec([row for name in public for row in files[name](_rng(seed, name))])
    for done, (name, rows) in enumerate(files.items(), 1):
        write_samples(root, name, sample_table(rows(_rng(seed, name)), spec))
        if progress:
            progress(done, len(files), name)
    card = DatasetCard(
        name=NAME,
        sources=_sources(support, intensive),
        spec=spec,
        seed=seed,
        split_rule=_split_rule(sizes),
    )
    return write_card(root, card)


def demo_spec(public_patients: Sequence[Mapping[str, object]]) -> DataSpec:
    """Return shapes and units, time series scaled by public mortality rows."""
    return DataSpec(
        image=ImageSpec(size_px=SIZE_PX),
        signal=SignalSpec(leads=LEADS, sampling_rate_hz=SAMPLING_RATE_HZ, num_samples=NUM_SAMPLES),
        series=fit_scales(public_patients),
    )


def _rng(seed: int, name: str) -> np.random.Generator:
    """Return a file's own random numbers, so that no file depends on the others."""
    return np.random.default_rng([seed, *name.encode()])


def _split_rule(sizes: DemoSizes) -> str:
    numbers = ", ".join(f"{name} {value}" for name, value in asdict(sizes).items())
    return (
        "Synthetic: one example a subject. Real: by patient, test first, then public as a tenth of "
        f"the private rest, which goes to hospitals by disease group. Sizes: {numbers}."
    )


def _whole_card(root: Folder, seed: int, sizes: DemoSizes) -> DatasetCard | None:
    """Return the card if just this root is there already, with all of its files."""
    if not root.exists(CARD):
        return None
    card = read_card(root)
    same = (card.name, card.seed, card.split_rule) == (NAME, seed, _split_rule(sizes))
    return card if same and not altered_files(root, card) else None


def _clear(root: Folder, names: set[str]) -> None:
    """Remove an older or unfinished demo root, and nothing else.

    Raises:
        DataError: there are other data.
    """
    ours = set(names)
    if root.exists(CARD):
        card = read_card(root)
        if card.name.startswith(NAME.rstrip("0123456789")):
            ours |= set(card.files)
    found = set(root.glob("**/*.parquet"))
    if others := sorted(found - ours):
        raise DataError(
            f"{root.url!r} holds other data, such as {others[0]!r}.",
            "The demo's data get a folder of their own.",
            "Choose an empty folder, or remove what is there.",
        )
    for name in (*((CARD,) if root.exists(CARD) else ()), *sorted(found)):
        root.fs.rm_file(root.full(name))


def _synthetic_files(sizes: DemoSizes) -> dict[str, Rows]:
    """Return who draws the rows of each file of images and ECGs."""
    files: dict[str, Rows] = {}
    for task in TASKS:
        modality = task.modalities[0]
        if modality not in ("image", "signal"):
            continue
        num_test = sizes.test_unseen
        if task.role == "train":
            num_test = sizes.test_trained
            num_private = sizes.private_images if modality == "image" else sizes.private_ecgs
            files |= _private_files(task, num_private)
            public = f"public/{task.id}/train"
            files |= _shared_files(public, task, modality, round(num_private * PUBLIC_SHARE))
        files |= _shared_files(f"test/{task.id}", task, modality, num_test)
    return files


def _private_files(task: Task, num_private: int) -> dict[str, Rows]:
    """Divide a task's private examples evenly over the hospitals that hold it."""
    files = {}
    holders = [name for name, site in SITES.items() if task.id in site.positive_share]
    for name in holders:
        num_rows = num_private // len(holders)
        num_valid = round(num_rows * VALID_SHARE)
        share = SITES[name].positive_share[task.id]
        for part, number in (("train", num_rows - num_valid), ("valid", num_valid)):
            place = f"clients/{name}/{task.id}/{part}"
            files[f"{place}/part-0.parquet"] = _drawn(task, place, SITES[name], number, share)
    return files


def _shared_files(place: str, task: Task, modality: Modality, num_rows: int) -> dict[str, Rows]:
    """Draw public or test rows, half positive, in equal parts from every hospital's device."""
    devices = "scanner" if modality == "image" else "recorder"
    sites = [site for site in SITES.values() if getattr(site, devices)]
    files = {}
    for i, site in enumerate(sites):
        number = num_rows // len(sites) + (i < num_rows % len(sites))
        files[f"{place}/part-{i}.parquet"] = _drawn(task, f"{place}/{i}", site, number, 0.5)
    return files


def _drawn(task: Task, place: str, site: Site, num_rows: int, share: float) -> Rows:
    def rows(rng: np.random.Generator) -> list[Row]:
        if task.modalities[0] == "image":
            assert site.scanner is not None
            return chest_rows(task, place, site.scanner, num_rows, share, rng)
        assert site.recorder is not None
        return ecg_rows(task, place, site.recorder, num_rows, share, rng)

    return rows


def _patient_files(
    support: Patients, intensive: Patients, sizes: DemoSizes, seed: int
) -> dict[str, Rows]:
    """Return who gives the rows of each file of patients; part 0 is SUPPORT2, part 1 CLIF."""
    splits = (
        split_support2(support, sizes.test_patients, PUBLIC_SHARE, _rng(seed, "support2")),
        split_clif(intensive, CLIF_TEST_SHARE, CLIF_PUBLIC_SHARE, _rng(seed, "clif")),
    )
    files: dict[str, Rows] = {}
    for part, (patients, split) in enumerate(zip((support, intensive), splits, strict=True)):
        for folder, indices in _patient_places(split).items():
            files[f"{folder}/part-{part}.parquet"] = _taken(patients, indices, folder)
    sepsis = splits[0].test[: sizes.test_unseen]
    files["test/sepsis/part-0.parquet"] = _taken(support, sepsis, "test/sepsis")
    return files


def _patient_places(split: PatientSplit) -> dict[str, np.ndarray]:
    places = {"public/mortality/train": split.public, "test/mortality": split.test}
    for client, indices in split.clients.items():
        num_valid = round(len(indices) * VALID_SHARE)
        places[f"clients/{client}/mortality/train"] = indices[num_valid:]
        places[f"clients/{client}/mortality/valid"] = indices[:num_valid]
    return places


def _taken(patients: Patients, indices: np.ndarray, place: str) -> Rows:
    task = next(task for task in TASKS if f"/{task.id}/" in f"/{place}/")
    return lambda rng: patients.rows(indices, task, place)


def _sources(support: Patients, intensive: Patients) -> tuple[Source, ...]:
    refused = [sum(p.num_out_of_range.values()) for p in (support, intensive)]
    note = "{} values outside physiological limits count as missing"

    def drawn_from(modality: Modality) -> tuple[TaskId, ...]:
        return tuple(task.id for task in TASKS if modality in task.modalities)

    return (
        Source(
            name="SUPPORT2",
            kind="real",
            licence=support2.LICENCE,
            tasks=("mortality", "sepsis"),
            reference=f"{support2.REFERENCE}; {note.format(refused[0])}",
        ),
        Source(
            name="CLIF demo",
            kind="real",
            licence=clif.LICENCE,
            tasks=("mortality",),
            reference=f"{clif.REFERENCE}; {note.format(refused[1])}",
        ),
        Source(
            name="chest phantom",
            kind="synthetic",
            licence="CC0-1.0",
            tasks=drawn_from("image"),
            reference="fedkim_ray/data/demo/chest_xray.py",
        ),
        Source(
            name="ECG model",
            kind="synthetic",
            licence="CC0-1.0",
            tasks=drawn_from("signal"),
            reference="fedkim_ray/data/demo/ecg.py, after McSharry et al. 2003",
        ),
    )
