"""The demo's data root at a hundredth of its size, with patients made up by the test."""

from pathlib import Path

import numpy as np
import pytest

from fedkim_ray.data.checking import check_root
from fedkim_ray.data.demo.icu import SPECS, Patients
from fedkim_ray.data.demo.root import DemoSizes, write_demo_root
from fedkim_ray.data.demo.sites import CRITICAL, SITES, split_support2
from fedkim_ray.data.loading import SampleSet, collate, load_samples
from fedkim_ray.data.root import CARD, DatasetCard
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.errors import DataError
from fedkim_ray.storage import Folder
from fedkim_ray.types import Modality

SIZES = DemoSizes(
    private_images=40, private_ecgs=20, test_trained=6, test_unseen=5, test_patients=30
)


def made_up(source: str, num: int, modalities: tuple[Modality, ...]) -> Patients:
    rng = np.random.default_rng(0)
    shapes = {m: (num, 1, len(SPECS[m].features)) for m in modalities}
    return Patients(
        subject_ids=[f"{source}/{i}" for i in range(num)],
        died=rng.random(num) < 0.3,
        sepsis=rng.random(num) < 0.4,
        group=rng.choice([CRITICAL[0], "CHF"], num),
        values={m: rng.normal(50, 5, shape).astype(np.float32) for m, shape in shapes.items()},
        observed={m: (rng.random(shape) < 0.8).astype(np.uint8) for m, shape in shapes.items()},
        num_out_of_range={"hrt": 3},
    )


def patients() -> tuple[Patients, Patients]:
    return (
        made_up("support2", 250, ("lab", "vital", "output")),
        made_up("clif", 50, ("lab", "vital", "input")),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("demo"))
    write_demo_root(url, sizes=SIZES, patients=patients)
    return url


@pytest.fixture
def card(root: str) -> DatasetCard:
    return write_demo_root(root, sizes=SIZES, patients=patients)


def samples(root: str, card: DatasetCard, place: str) -> SampleSet:
    return load_samples(Folder.at(root) / place, card.spec)


def test_all_tasks_and_modalities_are_there(root: str, card: DatasetCard) -> None:
    carried = set()
    for task in TASKS:
        for example in samples(root, card, f"test/{task.id}"):
            assert example.task == task.id
            carried |= set(example.arrays) | ({"text"} if example.text else set())
            assert (example.label is None) == (task.kind == "generate")
            assert (example.text is not None) == ("text" in task.modalities)
    assert carried == {"image", "signal", "text", "lab", "vital", "input", "output"}


def test_two_clients_at_least_hold_each_trained_task(card: DatasetCard) -> None:
    for task in TASKS:
        holders = [client for client in card.clients if task.id in card.tasks_of(client)]
        assert len(holders) == (2 if task.role == "train" else 0), task.id
    assert card.clients == ("harbor", "meadow", "summit")


def test_public_is_a_tenth_of_private(card: DatasetCard) -> None:
    for task in TASKS:
        private = sum(card.num_examples(f"clients/{c}/{task.id}/") for c in card.clients)
        assert card.num_examples(f"public/{task.id}/") == pytest.approx(private / 10, abs=4)
    assert card.num_examples("public/lung_opacity/") == 4
    assert card.num_examples("clients/harbor/lung_opacity/train/") == 18
    assert card.num_examples("clients/harbor/lung_opacity/valid/") == 2


def test_sizes_of_the_test_split(card: DatasetCard) -> None:
    assert card.num_examples("test/ecg_abnormal/") == 6
    assert card.num_examples("test/slake_vqa/") == 5
    assert card.num_examples("test/sepsis/") == 5
    # 30 of SUPPORT2 and a fifth of the 50 of CLIF.
    assert card.num_examples("test/mortality/") == 40


def test_no_subject_is_in_two_places(root: str, card: DatasetCard) -> None:
    assert check_root(Folder.at(root)) == []
    for client in card.clients:
        for task in card.tasks_of(client):
            train, valid = (
                {e.subject_id for e in samples(root, card, f"clients/{client}/{task}/{part}")}
                for part in ("train", "valid")
            )
            assert not train & valid


def test_every_patient_is_used_once(card: DatasetCard) -> None:
    places = [f"clients/{c}/mortality/" for c in card.clients]
    places += ["public/mortality/", "test/mortality/"]
    assert sum(card.num_examples(place) for place in places) == 300


def test_series_are_scaled_by_public_rows_alone(root: str, card: DatasetCard) -> None:
    values, seen = [], []
    for example in samples(root, card, "public/mortality/train"):
        values.append(example.arrays["vital"])
        seen.append(example.observed["vital"])
    public = np.array(values)[np.array(seen)[..., 0], 0]
    feature = card.spec.series["vital"].features[0]
    assert feature.center == pytest.approx(public.mean(), rel=1e-4)
    assert feature.scale == pytest.approx(public.std(), rel=1e-4)


def test_a_batch_of_everything_has_no_gaps(root: str, card: DatasetCard) -> None:
    of_tasks = [samples(root, card, f"test/{task.id}") for task in TASKS]
    examples = [of_task[len(of_task) - 1] for of_task in of_tasks]
    batch = collate(examples, card.spec)
    assert {"image", "signal", "lab", "vital"} <= set(batch.inputs)
    assert not any(part.values.isnan().any() for part in batch.inputs.values())


def test_the_card_says_what_is_real(card: DatasetCard) -> None:
    kinds = {task.id: card.kind_of(task.id) for task in TASKS}
    assert {task for task, kind in kinds.items() if kind == "real"} == {"mortality", "sepsis"}
    assert set(kinds.values()) == {"real", "synthetic"}
    assert all(source.licence for source in card.sources)
    assert "3 values outside physiological limits" in card.sources[0].reference


def test_a_second_call_leaves_the_root_as_it_is(root: str) -> None:
    def never() -> tuple[Patients, Patients]:
        raise AssertionError("the patients are there already")

    before = Folder.at(root).sha256(CARD)
    write_demo_root(root, sizes=SIZES, patients=never)
    assert Folder.at(root).sha256(CARD) == before


def test_the_same_seed_gives_the_same_files(root: str, card: DatasetCard, tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    again = write_demo_root(
        str(tmp_path),
        progress=lambda done, total, name: calls.append((done, total, name)),
        sizes=SIZES,
        patients=patients,
    )
    assert again == card
    assert [done for done, _, _ in calls] == list(range(1, len(card.files) + 1))
    other = write_demo_root(str(tmp_path), seed=1, sizes=SIZES, patients=patients)
    assert other.files.keys() == card.files.keys()
    assert other.files != card.files


def test_an_unfinished_or_damaged_root_is_made_anew(card: DatasetCard, tmp_path: Path) -> None:
    write_demo_root(str(tmp_path), sizes=SIZES, patients=patients)
    (tmp_path / "test/covid19/part-0.parquet").write_bytes(b"half")
    (tmp_path / "public/mortality/train/part-1.parquet").unlink()
    again = write_demo_root(str(tmp_path), sizes=SIZES, patients=patients)
    assert again == card
    (tmp_path / CARD).unlink()
    assert write_demo_root(str(tmp_path), sizes=SIZES, patients=patients) == card


def test_other_data_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "clients/mine/t/train/part-0.parquet"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"precious")
    with pytest.raises(DataError, match="holds other data, such as 'clients/mine/t/train"):
        write_demo_root(str(tmp_path), sizes=SIZES, patients=patients)
    assert other.read_bytes() == b"precious"


def test_patients_go_where_their_group_is() -> None:
    many = made_up("support2", 4000, ("vital",))
    split = split_support2(many, 1000, 0.1, np.random.default_rng(0))
    assert len(split.test) == 1000
    assert len(split.public) == round(3000 / 11)
    critical = {
        name: (many.group[index] == CRITICAL[0]).mean() for name, index in split.clients.items()
    }
    assert critical["meadow"] == pytest.approx(0.75, abs=0.05)
    assert critical["summit"] == pytest.approx(0.25, abs=0.05)
    assert [name for name, site in SITES.items() if site.intensive_care] == ["meadow"]
